"""What DeepSpeed is told: our own few settings, and over them a site's JSON file (`--deepspeed FILE`).

All else that DeepSpeed can be told changes the numbers of a run and follows from its configuration, so the
file has the section `zero_optimization` alone: how memory and communication are used. Those in launch/deepspeed
say what is used without a file, and with offloading to the host's memory; a site edits a copy.
"""

import json
from pathlib import Path
from typing import Any

from cxr_dist.config.run import Config
from cxr_dist.errors import UserError

# Elements of fp32, 100 MB: DeepSpeed's 500 million would be 2 GB a rank. The largest tensor of
# Bio_ClinicalBERT, its word embeddings, has 22 million.
BUCKET_ELEMENTS = 25_000_000
_SECTION = "zero_optimization"


def zero_settings(config: Config) -> dict[str, Any]:
    """DeepSpeed's configuration for a run; raises UserError for a file that is no such JSON, or sets more."""
    stage = int(config.parallel.removeprefix("zero"))
    site = _read(Path(config.deepspeed), stage) if config.deepspeed else {}
    buckets = {"reduce_bucket_size": BUCKET_ELEMENTS, "allgather_bucket_size": BUCKET_ELEMENTS}
    return {
        # Our micro-batches have their own sizes and share of the loss; DeepSpeed is to divide by nothing.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.clip_norm,
        _SECTION: buckets | site | {"stage": stage},
        "zero_allow_untested_optimizer": True,  # torch's Adam, which DDP uses too
        "zero_force_ds_cpu_optimizer": False,
        # Not its `bf16` section, which casts BatchNorm too. No "safe" modules: gradients cross ranks in fp32.
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def _read(path: Path, stage: int) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--deepspeed {path} cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(found, dict) or not isinstance(found.get(_SECTION), dict):
        raise UserError(f'--deepspeed {path} is not of the form {{"{_SECTION}": {{...}}}}')
    wrong = [name for name in found if name != _SECTION]
    if wrong:
        raise UserError(
            f"--deepspeed {path} sets {wrong[0]!r}, which follows from the run's own settings "
            f"(--precision, --data.…, --optim.…): keep {_SECTION!r} alone"
        )
    section: dict[str, Any] = found[_SECTION]
    if section.get("stage", stage) != stage:
        raise UserError(
            f"--deepspeed {path} is for stage {section['stage']}, but --parallel is zero{stage}: "
            "choose another file, or another engine"
        )
    if section.get("compute_grad_norm") is False:
        raise UserError(
            f"--deepspeed {path} sets compute_grad_norm to false, but updates that are not finite are left out by "
            "that norm: take it out of the file"
        )
    return section
