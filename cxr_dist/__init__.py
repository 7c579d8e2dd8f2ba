"""cxr_dist trains chest X-ray classifiers on images and radiology reports together, on clusters.

    import cxr_dist
    model = cxr_dist.load("EXPORT")
    print(model.predict("image.png", report="…"))

Research software; not for clinical use.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_dist.inference.loaded import LoadedModel

__version__ = "0.1.0"


def load(folder: str | Path, device: str = "cpu") -> "LoadedModel":
    """Open a trained model: a folder that `cxr-dist export` wrote, or a run folder whose shards can still be read.

    Nothing outside an exported folder is read. `device` is a torch device string such as cpu, cuda or cuda:1.
    Raises cxr_dist.errors.UserError if the folder is missing, damaged, of a newer release, or not a model.
    """
    from cxr_dist.inference.opened import checked_device, open_model  # not at the top: `import cxr_dist` stays fast

    return open_model(Path(folder).expanduser(), checked_device(device))
