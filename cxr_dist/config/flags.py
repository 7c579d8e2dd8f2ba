"""From a named run and the flags of a command line to its configuration, for all that starts or submits a run."""

from collections.abc import Sequence

import tyro
from tyro.conf import FlagConversionOff

from cxr_dist.config.model import RENAMED_CHECKPOINTING
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config


def config_of(run: str, flags: Sequence[str], prog: str, description: str | None = None) -> Config:
    """Return a named run with `--section.field VALUE` flags applied; an unknown flag exits with status 2."""
    return tyro.cli(
        Config,
        default=named_run(run),
        args=for_tyro(_renamed(flags)),
        prog=prog,
        description=description,
        config=(FlagConversionOff,),
    )


def for_tyro(arguments: Sequence[str]) -> list[str]:
    """Replace true and false by True and False, and --slurm-FIELD by --slurm.FIELD, which tyro expects."""
    spelt = [a.capitalize() if a in ("true", "false") else a for a in arguments]
    return ["--slurm." + a.removeprefix("--slurm-") if a.startswith("--slurm-") else a for a in spelt]


def _renamed(flags: Sequence[str]) -> list[str]:
    """Replace the values true and false of --model.gradient-checkpointing in older scripts by their present names."""
    return [
        RENAMED_CHECKPOINTING.get(value.lower(), value)
        if flag.replace("_", "-") == "--model.gradient-checkpointing"
        else value
        for flag, value in zip(["", *flags], flags, strict=False)
    ]
