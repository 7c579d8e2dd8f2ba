"""RUN_DIR/trained_on.json: what evaluation and prediction need to know about the shards that a run was trained on.

With it a run folder can be moved and used after its shards are gone. Runs of earlier versions have no such file; for
them the same facts come from the manifest of their shards.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_dist.config.decode import decode, parse_json
from cxr_dist.config.file import TRAINED_ON, to_plain
from cxr_dist.config.run import Config
from cxr_dist.data.place import shards_folder
from cxr_dist.errors import UserError, require
from cxr_dist.files import read_regular, sha256_of, write_whole
from cxr_dist.format.folds import of_fold
from cxr_dist.format.manifest import Manifest, Task, load_manifest
from cxr_dist.model.class_balance import class_balance

MANIFEST_COPY = "trained_on_manifest.json"
"""The file of a run folder with the manifest of its shards, but without the list of the shards."""
_FORMAT, _VERSION = "cxr_dist trained on", 1
_CUT_BY_HEADINGS = ("mimic_cxr_jpg",)  # readers that cut reports by format/report_sections.py


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The facts about a run's training shards."""

    task: Task
    classes: tuple[str, ...]
    image: dict[str, int]
    """See Manifest.image."""
    text_sections: tuple[str, ...]
    """All sections in the shards; the run's own are in its configuration."""
    section_rules: str
    """`headings` if the reader cut reports by their headings (format/report_sections.py); else empty, because
    the source has its sections apart."""
    reader: str
    label_source: str
    labels_in_reports: str
    label_terms_redacted: bool
    split_by: str
    made_data: bool
    manifest_sha256: str
    class_weights: dict[str, float] | None
    """Class -> its weight in the loss; None if the loss is not weighted."""
    prior_shift: dict[str, float]
    """Class -> see `Calibrator.prior_shift`."""
    fold: int | None = None
    """The test fold, if the shards have folds: training used neither it nor the next one."""
    redact: tuple[str, ...] = ()
    """The terms that were replaced in the reports of the shards; see format/redact.py."""

    @classmethod
    def of(cls, config: Config, manifest: Manifest, sha256: str) -> "TrainedOn":
        """The facts from the manifest and, for weighted sampling of a multilabel task, the indices of its shards.

        Raises UserError if a class cannot have the weight that the configuration asks for.
        """
        balance = class_balance(config.data, manifest)
        weights = balance.class_weights(config.loss.class_weights)
        shift = balance.prior_shift(weights)
        return cls(
            task=manifest.task,
            classes=manifest.classes,
            image=manifest.image,
            text_sections=manifest.text_sections,
            section_rules="headings" if manifest.reader in _CUT_BY_HEADINGS else "",
            reader=manifest.reader,
            label_source=manifest.label_source,
            labels_in_reports=manifest.labels_in_reports,
            label_terms_redacted=bool(manifest.recipe.get("redact")),
            split_by=manifest.split_by,
            made_data=manifest.made_data,
            manifest_sha256=sha256,
            class_weights=None if weights is None else dict(zip(manifest.classes, weights.tolist(), strict=True)),
            prior_shift=dict(zip(manifest.classes, shift.tolist(), strict=True)),
            fold=manifest.fold,
            redact=tuple(manifest.recipe.get("redact") or ()),
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    format: str
    format_version: int
    facts: TrainedOn


def keep_trained_on(run_dir: Path, config: Config, manifest: Manifest, sha256: str) -> None:
    """Write the file, unless there is one for these shards (rank 0)."""
    known = _recorded(run_dir)
    if known is None or known.manifest_sha256 != sha256:
        plain = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "facts": to_plain(TrainedOn.of(config, manifest, sha256)),
        }
        without_shards = {name: replace(split, shards=()) for name, split in manifest.splits.items()}
        write_whole(run_dir / MANIFEST_COPY, replace(manifest, splits=without_shards).to_json())
        write_whole(run_dir / TRAINED_ON, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def read_trained_on(run_dir: Path, config: Config, sha256: str | None = None) -> TrainedOn:
    """What a run was trained on.

    Args:
        run_dir: The run folder.
        config: Its configuration, with the present place of its shards, which are read if there is no file.
        sha256: The sha256 of the manifest in the state of its checkpoint; a file about other shards does not count.

    Raises UserError if the file is damaged or of a later version, or if there is neither a file nor these shards.
    """
    known = _recorded(run_dir)
    if known is not None and sha256 in (None, known.manifest_sha256):
        return known
    folder = shards_folder(config.data)
    path = folder / "manifest.json"
    found = sha256_of(path) if path.is_file() else None
    if found is None or sha256 not in (None, found):
        raise UserError(
            f"{run_dir} was trained by an earlier version, which left no {TRAINED_ON}, so the shards that it was "
            f"trained on are needed, but {folder} holds {'other shards' if found else 'no shards'}: put them back "
            "there, or write their place into data.shards of the run's config.yaml"
        )
    return TrainedOn.of(config, of_fold(load_manifest(folder), config.data.fold), found)


def training_manifest(run_dir: Path, config: Config, sha256: str) -> Manifest | None:
    """The manifest of the shards that a run was trained on; None if they are gone and an earlier version trained it.

    If they are gone, it comes from the run folder and lists no shards. `config` has the present place of the shards,
    and `sha256` is that of their manifest.
    """
    with suppress(UserError):  # such as a URL that does not answer, or a format that is no longer supported
        path = shards_folder(config.data) / "manifest.json"
        if path.is_file() and sha256_of(path) == sha256:
            return of_fold(load_manifest(path.parent), config.data.fold)
    known, path = _recorded(run_dir), run_dir / MANIFEST_COPY
    if known is None or known.manifest_sha256 != sha256 or not path.is_file():
        return None
    return Manifest.from_json(read_regular(path).decode("utf-8", errors="replace"), path)


def _recorded(run_dir: Path) -> TrainedOn | None:
    path = run_dir / TRAINED_ON
    if not path.is_file():
        return None
    plain = parse_json(path, TRAINED_ON)
    if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
        raise UserError(f"{TRAINED_ON} in {run_dir} is not what `cxr-dist train` wrote: restore it from a copy")
    version = plain.get("format_version")
    require(
        version == _VERSION,
        f"{TRAINED_ON} in {run_dir} has format version {version}; this release reads version {_VERSION}: use the "
        "release that wrote it, or a newer one",
    )
    return decode(_File, plain, TRAINED_ON).facts
