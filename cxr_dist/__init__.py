"""cxr_dist: train chest X-ray classifiers on images and radiology reports together, on clusters.

    import cxr_dist
    model = cxr_dist.load("EXPORT")
    print(model.predict("film.png", report="…"))

Research software; not for clinical use.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_dist.inference.trained import TrainedModel

__version__ = "0.1.0"


def load(folder: str | Path, device: str = "cpu") -> "TrainedModel":
    """Open a trained model: a folder that `cxr-dist export` wrote, or a run folder whose shards are at hand.

    Reads nothing outside an exported folder. `device` is torch's name: cpu, cuda, cuda:1, …
    Raises cxr_dist.errors.UserError for a folder that is missing, damaged, of a newer release, or something else.
    """
    import torch  # here, so that `import cxr_dist` is light

    from cxr_dist.inference.trained import open_model

    return open_model(Path(folder).expanduser(), torch.device(device))
