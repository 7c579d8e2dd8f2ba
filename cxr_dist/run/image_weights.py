"""RUN_DIR/image_weights.json: the file of weights from which the image encoder of a run started.

It has the file's name without its folder, its sha256, and how its tensors matched. The file is read when a run begins:
a run with a checkpoint resumes without it, and a trained model is opened without it.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import nn, random

from cxr_dist.config.decode import decode, parse_json
from cxr_dist.config.file import to_plain
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError, printable, require
from cxr_dist.files import sha256_of, write_whole
from cxr_dist.model.image_encoder import kind_of
from cxr_dist.model.weights_file import FLAG, check_weights_path
from cxr_dist.model.weights_match import Match, check_match, load_tensors, match_file
from cxr_dist.run.checkpoint import has_checkpoint

IMAGE_WEIGHTS = "image_weights.json"
_FORMAT, _VERSION = "cxr_dist image weights", 1


@dataclass(frozen=True, kw_only=True)
class StartedFrom:
    """Where the weights of a run's image encoder came from."""

    sha256: str
    """Of the file."""
    match: Match

    def in_words(self) -> str:
        """The file's name, the start of its sha256, and how many tensors of the encoder it has."""
        total = len(self.match.matched) + len(self.match.missing) + len(self.match.other_shape)
        return f"{self.match.file} (sha256 {self.sha256[:16]}…), {len(self.match.matched)} of {total} tensors"


@dataclass(frozen=True, kw_only=True)
class _File:
    format: str
    format_version: int
    started_from: StartedFrom


def check_image_weights(config: Config) -> StartedFrom | None:
    """How the file fits the image encoder; None for a run that begins without one, or that resumes (rank 0).

    Raises UserError as `match_file` does, for a partial match that is not allowed, and if the run in the folder began
    from another file, or without one.
    """
    run_dir, given = config.run_dir, config.model.image_weights
    known, resumes = read_image_weights(run_dir), has_checkpoint(run_dir)
    path = Path(given).expanduser()
    if resumes:
        began = f"began from {known.match.file}" if known else "began without image weights"
        require(
            (known is None) == (not given),
            f"model.image_weights is {path.name or 'empty'!r}, but the run in {run_dir} {began}: use the same setting "
            "to resume it, or choose another --out",
        )
        if known and path.is_file():
            _check_same(path, known)
        return None
    if not given:
        return None
    check_weights_path(path)
    sha256 = sha256_of(path)
    kind = kind_of(config)
    with random.fork_rng(devices=[]):
        encoder = kind.build(dataclasses.replace(config.model, pretrained=False))
    match, _ = match_file(encoder, kind.translate, path)
    check_match(match, allow_partial=config.model.allow_partial)
    return StartedFrom(sha256=sha256, match=match)


def keep_image_weights(run_dir: Path, started_from: StartedFrom | None) -> None:
    """Write the record of a run that begins, and say how the file matched (rank 0)."""
    if started_from is not None:
        plain = {"format": _FORMAT, "format_version": _VERSION, "started_from": to_plain(started_from)}
        write_whole(run_dir / IMAGE_WEIGHTS, json.dumps(plain, indent=1) + "\n")
        print(printable(f"{FLAG}: {started_from.match.in_words()}"), file=sys.stderr)


def load_image_weights(config: Config, encoder: nn.Module | None) -> None:
    """Load the file of a run that begins into its image encoder (all ranks).

    Raises UserError if this rank reads another file than rank 0 did.
    """
    known, given = read_image_weights(config.run_dir), config.model.image_weights
    if encoder is None or known is None or not given or has_checkpoint(config.run_dir):
        return
    path = Path(given).expanduser()
    check_weights_path(path)
    _check_same(path, known)
    _, tensors = match_file(encoder, kind_of(config).translate, path)
    load_tensors(encoder, tensors)


def read_image_weights(run_dir: Path) -> StartedFrom | None:
    """The record of a run folder; None if its image encoder started from no file. Raises UserError if it is damaged."""
    path = run_dir / IMAGE_WEIGHTS
    if not path.is_file():
        return None
    plain = parse_json(path, IMAGE_WEIGHTS)
    if not isinstance(plain, dict) or (plain.get("format"), plain.get("format_version")) != (_FORMAT, _VERSION):
        raise UserError(
            f"{IMAGE_WEIGHTS} in {run_dir} is not what this release of `cxr-dist train` writes: put it back"
        )
    return decode(_File, plain, IMAGE_WEIGHTS).started_from


def _check_same(path: Path, known: StartedFrom) -> None:
    require(
        sha256_of(path) == known.sha256,
        f"{FLAG}: {path.name} is not the file that the run began from, {known.match.file} (its sha256 differs): put "
        "that file back, or choose another --out",
    )
