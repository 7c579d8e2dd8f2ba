"""Build DeepSpeed's configuration from the run's settings and an optional JSON file (`--deepspeed FILE`).

The file may contain only the section `zero_optimization`, which controls memory and communication. All other settings
of DeepSpeed change the results of a run, and follow from the run's configuration. The files in launch/deepspeed/ show
the defaults, and offloading to host memory; edit a copy of one of them.
"""

from pathlib import Path
from typing import Any

from cxr_dist.config.decode import parse_json
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError

# Elements of fp32, so 100 MB. DeepSpeed's default of 500 million would take 2 GB on each rank, and the largest tensor
# of Bio_ClinicalBERT, its word embeddings, has only 22 million.
BUCKET_ELEMENTS = 25_000_000
_SECTION = "zero_optimization"


def zero_settings(config: Config) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a run; raises UserError if the JSON file is invalid or sets other things."""
    stage = int(config.parallel.removeprefix("zero"))
    site = _read(Path(config.deepspeed), stage) if config.deepspeed else {}
    buckets = {"reduce_bucket_size": BUCKET_ELEMENTS, "allgather_bucket_size": BUCKET_ELEMENTS}
    return {
        # The loss is already divided by the step's denominator, so DeepSpeed must not divide it again.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.clip_norm,
        _SECTION: buckets | site | {"stage": stage},
        "zero_allow_untested_optimizer": True,  # torch's Adam, which DDP uses as well
        "zero_force_ds_cpu_optimizer": False,
        # The `bf16` section would also cast BatchNorm. Without "safe" modules, gradients are summed in fp32.
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def _read(path: Path, stage: int) -> dict[str, Any]:
    settings = parse_json(path, f"--deepspeed {path}")
    if not isinstance(settings, dict) or not isinstance(settings.get(_SECTION), dict):
        raise UserError(f'--deepspeed {path} is not of the form {{"{_SECTION}": {{...}}}}')
    wrong = [name for name in settings if name != _SECTION]
    if wrong:
        raise UserError(
            f"--deepspeed {path} sets {wrong[0]!r}, which follows from the run's own settings "
            f"(--precision, --data.…, --optim.…): keep {_SECTION!r} alone"
        )
    section: dict[str, Any] = settings[_SECTION]
    if section.get("stage", stage) != stage:
        raise UserError(
            f"--deepspeed {path} is for stage {section['stage']}, but --parallel is zero{stage}: "
            "choose another file, or another engine"
        )
    if section.get("compute_grad_norm") is False:
        raise UserError(
            f"--deepspeed {path} sets compute_grad_norm to false, but updates that are not finite are recognised by "
            "that norm: remove it from the file"
        )
    return section
