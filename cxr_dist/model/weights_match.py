"""`--model.image-weights FILE`: match the tensors of a file with an image encoder's, and load them.

The file may have the names of the published network, which the encoder's kind translates, or the encoder's own, both
perhaps below a prefix such as `module.` or `backbone.`. The prefix that matches most is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_dist.errors import require
from cxr_dist.model.published_names import in_timms_names
from cxr_dist.model.weights_file import FLAG, read_weights

Translate = Callable[[dict[str, Tensor]], dict[str, Tensor]]
_PARTIAL = "--model.allow-partial true"
_SHOWN = 3
_DEEPEST = 4  # components of the longest prefix that is tried
_HEADS = ("classifier", "fc", "_fc", "head", "heads", "head_dist", "last_linear", "projection_head", "logit_scale")
_COUNTER = "num_batches_tracked"  # unused with a momentum, and missing in files of early releases of torch


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which tensors of a file belong to which of an encoder. Tensor names are those of the encoder, or of the file."""

    file: str
    """The file's name, without its folder."""
    prefix: str
    """What the names of the file have before those of the network; empty if nothing."""
    matched: tuple[str, ...]
    """The encoder's tensors that the file has, of the same shape."""
    missing: tuple[str, ...]
    """The encoder's tensors that the file does not have."""
    other_shape: tuple[str, ...]
    """The encoder's tensors that the file has in another shape, as `NAME [in the file] instead of [in the encoder]`."""
    unexpected: tuple[str, ...]
    """The file's tensors that the encoder should have if it were the same network."""
    unused: tuple[str, ...]
    """The file's tensors that this encoder does not need, such as a classifier, and those outside of the prefix."""

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the encoder is in the file, and no layer of the file is left."""
        return not (self.missing or self.other_shape or self.unexpected)

    def in_words(self) -> str:
        """What matched and what did not: counts, and the first names of each kind."""
        total = len(self.matched) + len(self.missing) + len(self.other_shape)
        parts = {
            "missing in the file": self.missing,
            "of another shape": self.other_shape,
            "unexpected in the file": self.unexpected,
            "not needed": self.unused,
        }
        below = f", below the prefix {self.prefix}" if self.prefix else ""
        counted = [f"{len(names)} {what} ({_first(names)})" for what, names in parts.items() if names]
        return "; ".join([f"{self.file}: {len(self.matched)} of {total} tensors of the image encoder{below}", *counted])


def match_file(encoder: nn.Module, translate: Translate, path: Path) -> tuple[Match, dict[str, Tensor]]:
    """How a file fits an encoder, and the file's tensors by the encoder's names; the encoder is not changed.

    `translate` is that of the encoder's kind. Raises UserError if the file cannot be read, if no tensor matches, if two
    networks in the file match equally well, and if a tensor to load is not finite.
    """
    weights, own = read_weights(path), _shapes(encoder)
    readings = [reading for prefix in _prefixes(weights) for reading in _readings(weights, prefix, translate, own)]
    best = max(readings, key=lambda reading: len(reading.fits))
    require(
        bool(best.fits),
        f"{FLAG}: no tensor of {path.name} belongs to this image encoder: the file has {len(weights)} "
        f"({_first(tuple(weights))}), and the encoder {len(own)} ({_first(tuple(own))}). Check --model.image-encoder",
    )
    broken = [name for name in best.fits if not bool(best.translated[name].isfinite().all())]
    require(not broken, f"{FLAG}: tensors of {path.name} are not finite ({_first(tuple(broken))}): download it again")
    equal = [each for each in readings if len(each.fits) == len(best.fits) and each.prefix != best.prefix]
    rivals = [each for each in equal if not each.loads_the_same(best)]
    require(
        not rivals,
        f"{FLAG}: {path.name} holds several networks that fit this image encoder equally well, below the prefixes "
        f"{', '.join(sorted({each.prefix or '(none)' for each in [best, *rivals]}))}: keep one of them in a file",
    )
    match = Match(
        file=path.name,
        prefix=best.prefix,
        matched=tuple(best.fits),
        missing=tuple(n for n in own if n not in best.translated and not n.endswith(_COUNTER)),
        other_shape=tuple(
            f"{name} {list(tensor.shape)} instead of {own[name]}"
            for name, tensor in best.translated.items()
            if name in own and name not in best.fits
        ),
        unexpected=best.unexpected(own),
        unused=best.unused(weights, own),
    )
    return match, {name: best.translated[name] for name in best.fits}


def check_match(match: Match, *, allow_partial: bool) -> None:
    """Raise UserError, with what did not match, unless the file is the whole encoder or a part of it is allowed."""
    require(
        match.is_whole or allow_partial,
        f"{FLAG}: {match.in_words()}. Choose the --model.image-encoder of these weights, or load what matches with "
        f"{_PARTIAL}",
    )


@torch.no_grad()
def load_tensors(encoder: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors to those of the same name, in the encoder's dtype, device and memory layout."""
    own = encoder.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """The tensors of a file below a prefix, in the encoder's names."""

    prefix: str
    rename: Translate
    translated: dict[str, Tensor]
    fits: tuple[str, ...]

    def unexpected(self, own: dict[str, list[int]]) -> tuple[str, ...]:
        return tuple(name for name in self.translated if name not in own and not _is_head(name))

    def unused(self, weights: dict[str, Tensor], own: dict[str, list[int]]) -> tuple[str, ...]:
        """The file's tensors without which the same tensors result."""
        needed = self._results(weights, own)
        alone = (name for name in weights if not self._results({name: weights[name]}, own))
        return tuple(n for n in alone if self._results({k: t for k, t in weights.items() if k != n}, own) == needed)

    def loads_the_same(self, other: "_Reading") -> bool:
        """Whether both readings give every tensor the same values, so that it does not matter which is taken."""
        ours, theirs = self.translated, other.translated
        return set(self.fits) == set(other.fits) and all(torch.equal(ours[name], theirs[name]) for name in self.fits)

    def _results(self, weights: dict[str, Tensor], own: dict[str, list[int]]) -> set[str]:
        return {name for name in self.rename(_below(weights, self.prefix)) if name in own or not _is_head(name)}


def _readings(
    weights: dict[str, Tensor], prefix: str, translate: Translate, own: dict[str, list[int]]
) -> list[_Reading]:
    """The ways to read what is below a prefix: as published, and as the encoder's own tensors."""
    part, readings = _below(weights, prefix), []
    names = list(own)
    other: Translate = lambda tensors: translate(in_timms_names(tensors, names))  # noqa: E731
    for rename in (translate, _unchanged, other):
        translated = rename(part)
        fits = tuple(n for n, t in translated.items() if n in own and list(t.shape) == own[n])
        readings.append(_Reading(prefix=prefix, rename=rename, translated=translated, fits=fits))
    return readings


def _unchanged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors


def _prefixes(weights: dict[str, Tensor]) -> list[str]:
    """The starts of names that may stand before those of a network: none, or up to four components."""
    found = {""}
    for name in weights:
        parts = name.split(".")[:-1][:_DEEPEST]
        found |= {".".join(parts[:n]) + "." for n in range(1, len(parts) + 1) if not parts[n - 1].isdigit()}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _shapes(encoder: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()}


def _is_head(name: str) -> bool:
    return any(part in _HEADS for part in name.split(".")[:2])


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
