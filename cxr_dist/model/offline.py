"""Switch the Hugging Face libraries to offline mode, which they read from the environment when they are imported.

All commands except `cxr-dist fetch` read local files only: the weights bundle, the run folder and the shards.
Otherwise a node without network would wait for time-outs, and a node with network could use other weights.
"""

import os

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def stay_offline() -> None:
    """Forbid this process and its child processes to use the model hub, whatever the caller's environment is."""
    os.environ.update(OFFLINE)
