"""What a model's numbers depend on besides its weights: trained_on.json, encoders' folders, report sections, sizes.

Each checkpoint records them. Without this record, a run folder that was copied without its tokenizer would be opened,
and would give wrong probabilities without an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_dist.config.file import TRAINED_ON, to_plain
from cxr_dist.config.run import Config
from cxr_dist.errors import require
from cxr_dist.files import sha256_of
from cxr_dist.run.parts import PARTS, read_parts

_TEXT_ENCODER, _IMAGE_ENCODER = "text_encoder", "image_encoder"


def meaning_of(run_dir: Path, config: Config) -> dict[str, Any]:
    """The record of a run: settings, the user's own encoders, and the SHA-256 of each file, by its path in the folder.

    Hidden files are left out, because nothing reads them.
    """
    model = config.model
    folders = [run_dir / _TEXT_ENCODER] * model.uses_text + [run_dir / _IMAGE_ENCODER] * model.uses_image
    files = [run_dir / TRAINED_ON, *(path for f in folders if f.is_dir() for path in sorted(f.iterdir()))]
    named = config.model.named_parts
    return {
        "data.fold": config.data.fold,
        "data.text_sections": list(config.data.text_sections),
        "data.max_tokens": config.data.max_tokens,
        "data.image_size": config.data.image_size,
        "parts": to_plain({field: parts for field, parts in read_parts(run_dir).items() if field in named}),
        "files": {
            path.relative_to(run_dir).as_posix(): sha256_of(path)
            for path in files
            if path.is_file() and not path.name.startswith(".")
        },
    }


def check_meaning(recorded: Mapping[str, Any], run_dir: Path, config: Config) -> None:
    """Raise UserError, which names the file or the setting, if the run folder differs from a checkpoint's record.

    The record is empty for a checkpoint of an earlier release, which is accepted.
    """
    if not recorded:
        return
    now = meaning_of(run_dir, config)
    files, found = recorded["files"], now["files"]
    for name in sorted(files | found):
        wrong = "is missing" if name not in found else "has changed (sha256)" if name in files else "was added"
        require(
            files.get(name) == found.get(name),
            f"{name} of the run {run_dir} {wrong} since its checkpoint was written, and the model's numbers depend on "
            "it: copy the whole run folder again, or put its files back as they were",
        )
    require(
        recorded["parts"] == now["parts"],
        f"{PARTS} of the run {run_dir} is missing or has changed since its checkpoint was written: put it back",
    )
    for name in recorded.keys() & now.keys() - {"files", "parts"}:
        require(
            recorded[name] == now[name],
            f"{name} is {_shown(now[name])}, but the checkpoint of {run_dir} was trained with "
            f"{_shown(recorded[name])}: put its config.yaml back as it was",
        )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
