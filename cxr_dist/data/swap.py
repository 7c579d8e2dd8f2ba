"""Give samples the image or the report of another sample, for the evaluation of what a model uses.

Only what the model reads is exchanged: labels, patient and id stay those of the sample itself.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.read import SampleDict
from cxr_dist.format.stored_sample import image_names

Modality = Literal["image", "report"]


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Which sample of a split gets which sample's image or report."""

    modality: Modality
    donors: NDArray[np.int64]
    """[n], for each sample of the split the id of the sample whose image or report it gets; its own id for no swap."""

    def applied(self, own: SampleDict, donor: SampleDict) -> SampleDict:
        """The decoded sample `own` with all images of `donor`, or with the report of `donor`."""
        if self.modality == "report":
            return own | {"json": own["json"] | {"text": donor["json"]["text"]}}
        kept = {name: value for name, value in own.items() if name not in image_names(own)}
        return kept | {name: donor[name] for name in image_names(donor)}
