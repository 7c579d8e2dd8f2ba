"""Decide on which shards a run or an ensemble is evaluated, and check that other shards fit the trained model.

The shards that a run was trained on are its own, wherever they lie now; all others are external. For these the classes,
the task, the report sections and the image size belong to the model, and results go to RUN_DIR/evaluation/NAME.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.config.data import DataConfig
from cxr_dist.config.decode import parse_record
from cxr_dist.config.file import to_plain
from cxr_dist.data.place import at, open_store, shards_folder
from cxr_dist.errors import UserError, require
from cxr_dist.evaluate.class_match import ClassMap, ClassMatch, match_classes, read_class_map
from cxr_dist.evaluate.leakage import patients_in_training
from cxr_dist.evaluate.predict import read_index
from cxr_dist.evaluate.subgroups import read_attributes
from cxr_dist.format.folds import of_fold
from cxr_dist.format.manifest import SPLITS, Manifest, load_manifest
from cxr_dist.inference.trained import TrainedModel
from cxr_dist.run.folder import manifest_sha256


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user says about external shards."""

    name: str | None = None
    """The name of the results, in RUN_DIR/evaluation/NAME."""
    class_map: Path | None = None
    """A YAML file, see evaluate/class_match.py."""
    recalibrate: bool = False
    """Choose calibration and thresholds on the external shards' validation split."""


@dataclass(frozen=True, kw_only=True)
class External:
    """External shards, which fit the model."""

    name: str
    match: ClassMatch
    class_map: ClassMap | None
    recalibrate: bool
    notes: tuple[str, ...]
    """What differs from the shards that the model was trained on, in words."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedShards:
    """The shards that a run or an ensemble is evaluated on."""

    manifest: Manifest
    manifest_sha256: str
    members: tuple[TrainedModel, ...]
    """The runs that are evaluated, with the place of these shards in their settings."""
    external: External | None
    """None if these are the members' own shards."""

    @property
    def data(self) -> DataConfig:
        """The settings by which the shards are read."""
        return self.members[0].config.data

    @property
    def match(self) -> ClassMatch | None:
        """How the classes of external shards match those of the model."""
        return None if self.external is None else self.external.match

    @property
    def recalibrated(self) -> bool:
        """Whether calibration and thresholds are chosen on the validation split of external shards."""
        return self.external is not None and self.external.recalibrate

    def attributes(self, split: str) -> dict[str, list[str]]:
        """`read_attributes` of the samples that can be evaluated."""
        with contextlib.closing(open_store(self.data, self.manifest, split)) as store:
            attributes = read_attributes(store)
        if self.match is None:
            return attributes
        return {name: [values[row] for row in self.rows(split)] for name, values in attributes.items()}

    def rows(self, split: str) -> NDArray[np.int64]:
        """The ids of the split's samples that can be evaluated, in order."""
        if self.match is None:
            return np.arange(self.manifest.split(split).samples)
        return np.flatnonzero(self.match.evaluated(read_index(self.data, self.manifest, split)["label"]))

    def facts(self, split: str, notes: Sequence[str]) -> dict[str, Any] | None:
        """The block "external" of metrics.json with further notes; None for the members' own shards."""
        if self.external is None:
            return None
        external, match = self.external, self.external.match
        left_out = match.ignored_samples(read_index(self.data, self.manifest, split)["label"])
        said = [f"{count} samples of the class {name} are left out" for name, count in left_out.items() if count]
        return {
            "name": external.name,
            "shards_manifest_sha256": self.manifest_sha256,
            "classes_not_evaluated": dict(match.not_evaluated),
            "class_map": None if external.class_map is None else to_plain(dict(external.class_map)),
            "samples_left_out": left_out,
            "recalibrated": external.recalibrate,
            "notes": [*external.notes, *said, *notes],
        }

    def folder(self, out: Path, split: str) -> Path:
        """The folder of the results in the run folder `out`."""
        return out / "evaluation" / (split if self.external is None else self.external.name)


def shards_to_evaluate(
    members: Sequence[TrainedModel], shards: str | None, split: str, wanted: Wanted, out: Path
) -> EvaluatedShards:
    """Open and check the shards in the folder or at the URL `shards`, by default those that a run was trained on.

    Raises UserError for external shards without a name, or whose task, classes, sections or images do not fit.
    """
    placed = tuple(_at(member, shards) for member in members)
    folder = shards_folder(placed[0].config.data)
    manifest, sha256 = load_manifest(folder, "--shards"), manifest_sha256(folder)
    if {member.manifest_sha256 for member in members} == {sha256}:
        manifest = of_fold(manifest, _common_fold(members))
        require(
            wanted == Wanted(),
            "--name, --class-map and --recalibrate are for other shards, but these are the shards that the run was "
            "trained on: leave them out",
        )
        return EvaluatedShards(manifest=manifest, manifest_sha256=sha256, members=placed, external=None)
    require(
        not manifest.folds,
        f"the shards in {folder} have {manifest.folds} folds and are not those that the run was trained on: shard that "
        "source without folds to evaluate the run on it",
    )
    _check_name(wanted.name, folder, out)
    manifest.split(split)
    external = _checked(members, manifest, split, wanted)
    chosen = EvaluatedShards(manifest=manifest, manifest_sha256=sha256, members=placed, external=external)
    _check_free(chosen.folder(out, split), split, sha256)
    return chosen


def own_shards(members: Sequence[TrainedModel]) -> EvaluatedShards | None:
    """The shards that all members were trained on; None if they differ or are not at hand."""
    sha256 = members[0].manifest_sha256
    fold = members[0].config.data.fold
    if any((member.manifest_sha256, member.config.data.fold) != (sha256, fold) for member in members):
        return None
    for member in members:
        with contextlib.suppress(UserError, OSError):  # such as a URL that does not answer
            place = member.config.data.shards
            folder = shards_folder(at(member.config.data, None))
            if manifest_sha256(folder) == sha256:
                return EvaluatedShards(
                    manifest=of_fold(load_manifest(folder, "--shards"), fold),
                    manifest_sha256=sha256,
                    members=tuple(_at(each, place) for each in members),
                    external=None,
                )
    return None


def patients_seen_in_training(
    shards: EvaluatedShards, split: str, own: EvaluatedShards | None
) -> tuple[int | None, tuple[str, ...]]:
    """The number of the split's patients who are also in the training split, with notes; None if that is not known.

    Patient ids are hashes of the ids in the source. In another data set an id means another person, so only folders
    of one reader are compared.
    """
    if shards.external is None:
        return patients_in_training(shards.data, shards.manifest, split), ()
    unknown = "it is not known whether patients were also in training"
    if own is None:
        return None, (f"{unknown}, because the shards that the run was trained on are not at hand",)
    if own.manifest.reader != shards.manifest.reader:
        return None, (f"{unknown}, because patient ids of different readers cannot be compared",)
    count = patients_in_training(shards.data, shards.manifest, split, trained_on=(own.data, own.manifest))
    return count, (f"{count} patients have the id of a patient in training (the same person only in one source)",)


def _common_fold(members: Sequence[TrainedModel]) -> int | None:
    folds = list(dict.fromkeys(member.config.data.fold for member in members))
    if len(folds) > 1:
        raise UserError(
            f"the runs of the ensemble have different test folds ({', '.join(map(str, folds))}), so each was trained "
            "on samples that another is tested on: evaluate each by itself, and `cxr-dist compare` pools them"
        )
    return folds[0]


def _at(member: TrainedModel, shards: str | None) -> TrainedModel:
    return replace(member, config=replace(member.config, data=at(member.config.data, shards)))


def _check_name(name: str | None, folder: Path, out: Path) -> None:
    if name is None:
        raise UserError(
            f"the shards in {folder} are not those that the run was trained on (their manifest differs). Add --name "
            f"NAME, and the results go to {out / 'evaluation' / 'NAME'}, or give the run's own shards with --shards"
        )
    require(
        bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)),
        f"--name is {name!r}; expected a file name of letters, digits, dots, hyphens and underscores",
    )
    require(name not in SPLITS, f"--name is {name}, which is kept for the run's own {name} split: choose another name")


def _check_free(folder: Path, split: str, sha256: str) -> None:
    """Raise UserError if the folder holds the results of other shards or of another split."""
    if not (folder / "metrics.json").is_file():
        return
    earlier = parse_record(folder / "metrics.json", str(folder / "metrics.json"))
    if (earlier.get("manifest_sha256"), earlier.get("split")) != (sha256, split):
        what = f"the split {earlier.get('split')}" if earlier.get("manifest_sha256") == sha256 else "other shards"
        raise UserError(f"{folder} already holds the results of {what}: choose another --name, or remove the folder")


def _checked(members: Sequence[TrainedModel], manifest: Manifest, split: str, wanted: Wanted) -> External:
    first = members[0]
    assert wanted.name is not None
    require(
        all((each.task, each.classes) == (first.task, first.classes) for each in members),
        "the runs of the ensemble have different classes, or the same in another order: use runs of one data set",
    )
    require(
        manifest.task == first.task,
        f"the shards are {manifest.task}, but the model was trained for a {first.task} task: shard the source again "
        f"with labels.task {first.task}",
    )
    require(
        not wanted.recalibrate or (split != "val" and manifest.splits["val"].samples > 0),
        "--recalibrate chooses on the validation split of these shards, "
        + ("which is the split to evaluate: evaluate another" if split == "val" else "which is empty: leave it out"),
    )
    class_map = None if wanted.class_map is None else read_class_map(wanted.class_map)
    return External(
        name=wanted.name,
        match=match_classes(first.task, first.classes, manifest.classes, class_map),
        class_map=class_map,
        recalibrate=wanted.recalibrate,
        notes=tuple(dict.fromkeys(note for member in members for note in _differences(member, manifest))),
    )


def _differences(member: TrainedModel, manifest: Manifest) -> Iterator[str]:
    """What differs from the training shards and can be evaluated; raises UserError for what cannot."""
    config = member.config
    if config.model.uses_text:
        absent = [name for name in config.data.text_sections if name not in manifest.text_sections]
        require(
            len(absent) < len(config.data.text_sections),
            f"the model reads the report sections {', '.join(config.data.text_sections)}, of which the shards have "
            f"none; they have: {', '.join(manifest.text_sections) or 'no report'}",
        )
        if absent:
            yield f"the shards lack the report section {', '.join(absent)}, which the model reads"
    if config.model.uses_image:
        yield from _image_differences(member, manifest)


def _image_differences(member: TrainedModel, manifest: Manifest) -> Iterator[str]:
    size, trained, now = member.config.data.image_size, member.image["short_side"], manifest.image["short_side"]
    require(
        now >= min(size, trained),
        f"the images of the shards have a short side of {now} pixels, less than the {min(size, trained)} that the "
        f"model reads, so they would be enlarged: shard the source again with image.short_side {trained}",
    )
    require(
        manifest.views <= member.views,
        f"the shards have up to {manifest.views} images per sample, but the model was trained on "
        f"{'single images' if member.views == 1 else f'up to {member.views}'}: shard the source again with "
        + ("samples: image" if member.views == 1 else f"max_views: {member.views}"),
    )
    if now != trained:
        yield f"the images are stored with a short side of {now} pixels, in training {trained}"
    if manifest.views != member.views:
        yield f"the shards have up to {manifest.views} images per sample, in training up to {member.views}"
