"""No downloads: the Hugging Face libraries are told so before they are imported, because they read it only then.

Every command but `cxr-dist fetch` reads local files alone: the weights bundle, the run folder, the shards. A compute
node without network would otherwise wait for time-outs, and one with network could train on other weights.
"""

import os

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def stay_offline() -> None:
    """Forbid this process, and those that it starts, to ask the model hub, whatever the caller's environment says."""
    os.environ.update(OFFLINE)
