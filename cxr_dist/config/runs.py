"""The named runs for Python: `cxr_dist.runs.enhanced(shards="SHARDS", out="runs/e", train__epochs=5)`."""

from pathlib import Path
from typing import Any

from cxr_dist.config.decode import decode
from cxr_dist.config.file import to_plain
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError, did_you_mean, unknown


class Runs:
    """The named runs, each as a function that returns its configuration with changes.

    `shards` and `out` are the folders of the shards and of the run. Any other setting is `section__field=value`, such
    as `train__epochs=5` or `data__global_batch=64`, as in scikit-learn, and `field=value` for those without a section,
    such as `seed=1`. A setting that does not exist, or has a value of another type or out of range, raises UserError.
    """

    def baseline(self, *, shards: str | Path = "", out: str | Path = "", **settings: Any) -> Config:
        """Image only: DenseNet-121, class-weighted cross-entropy, Adam, plateau schedule, early stopping."""
        return _changed("baseline", shards, out, settings)

    def enhanced(self, *, shards: str | Path = "", out: str | Path = "", **settings: Any) -> Config:
        """Image and report: DenseNet-121 and Bio_ClinicalBERT, fused by cross-attention."""
        return _changed("enhanced", shards, out, settings)

    def demo(self, *, shards: str | Path = "", out: str | Path = "", **settings: Any) -> Config:
        """The enhanced recipe at the size of the demo data; `model__mode="text"` or "image" for one input alone."""
        return _changed("demo", shards, out, settings)

    def demo_baseline(self, *, shards: str | Path = "", out: str | Path = "", **settings: Any) -> Config:
        """The baseline recipe at the size of the synthetic demo data."""
        return _changed("demo-baseline", shards, out, settings)

    def pretrain(self, *, shards: str | Path = "", out: str | Path = "", **settings: Any) -> Config:
        """Contrastive pretraining on images and reports without labels: DenseNet-121 and Bio_ClinicalBERT."""
        return _changed("pretrain", shards, out, settings)

    def demo_pretrain(self, *, shards: str | Path = "", out: str | Path = "", **settings: Any) -> Config:
        """The pretraining recipe at the size of the synthetic demo data."""
        return _changed("demo-pretrain", shards, out, settings)

    def __repr__(self) -> str:
        return "the named runs: baseline, enhanced, pretrain, demo, demo_baseline and demo_pretrain"


def _changed(name: str, shards: str | Path, out: str | Path, settings: dict[str, Any]) -> Config:
    """Return a named run with its folders and other settings; raises UserError for a wrong one."""
    plain = to_plain(named_run(name))
    changes = settings | ({"data__shards": str(shards)} if shards else {}) | ({"out": str(out)} if out else {})
    for setting, value in changes.items():
        section, _, field = setting.rpartition("__")
        fields = plain.get(section) if section else plain
        if not isinstance(fields, dict):
            raise unknown(
                "section of settings", section, [key for key, each in plain.items() if isinstance(each, dict)]
            )
        if field not in fields or isinstance(fields[field], dict):
            names = [key for key, each in fields.items() if not isinstance(each, dict)]
            valid = ", ".join(f"{section}__{name}" if section else name for name in names)
            raise UserError(f"there is no setting {setting}{did_you_mean(field, names)}; expected one of {valid}")
        fields[field] = to_plain(tuple(value)) if isinstance(value, list | tuple) else _text(value)
    return decode(Config, plain, f"the run {name}")


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


runs = Runs()
