"""The command `fetch`: published weights into an offline bundle, and a list of those that it knows."""

from typing import Annotated

import tyro
from tyro.conf import Positional

from cxr_dist.cli.ending import interruptible
from cxr_dist.cli.help import FOLDER
from cxr_dist.config.argument_help import Switch

NAMES = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME …]")]


def fetch(names: Positional[NAMES] = (), /, *, out: FOLDER | None = None, list: Switch = False) -> None:
    """Download DenseNet-121 and Bio_ClinicalBERT, or the named weights, into an offline bundle; needs network.

    For example: cxr-dist fetch --out /project/weights

    Args:
        names: Names from `cxr-dist fetch --list`; none: densenet121 and emilyalsentzer/Bio_ClinicalBERT.
        out: Folder of the bundle; by default $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights.
        list: Only list the weights that can be fetched, with licence, size, revision and sha256. Needs no network.
    """
    from cxr_dist.model.catalogue import CATALOGUE, published

    if list:
        print("\n\n".join(entry.in_words() for entry in CATALOGUE))
        print("\nFetch some with `cxr-dist fetch NAME …`: bundle.json keeps the revision and the sha256 of each file.")
        return
    from cxr_dist.model.fetch import fetch as download
    from cxr_dist.model.fetch import fetch_published
    from cxr_dist.model.weights import bundle_folder

    entries, folder = [published(name) for name in names], out or bundle_folder("")
    with interruptible(lambda: "what is complete is kept, and the same command continues"):
        if not entries:
            download(folder)
        for entry in entries:
            sums = fetch_published(folder, entry)
            print("\n".join(f"{sha256}  {entry.name}/{file}" for file, sha256 in sums.items()))
    print(f"weights are in {folder}")
