"""Whose image or report a sample gets in the modality audit: that of a random sample of another patient.

The draws are hashes of (seed, kind, sample), so they do not depend on ranks, batches or shards.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.random import hash64
from cxr_dist.evaluate.arrays import Bools

Kind = Literal["same_label", "other_labels"]
"""Whether the other sample has the same label (all labels equal, unknown ones too), or another one."""
KINDS: tuple[Kind, ...] = get_args(Kind)
NO_DONOR = -1
_MOST_DRAWS = 64  # before the remaining candidates of a sample are listed

_Integers = NDArray[np.int64]


def donors(labels: NDArray[np.int16], patients: Sequence[str], kind: Kind, seed: int = 0) -> _Integers:
    """The row of a sample for each of n samples, drawn evenly from those of other patients, with replacement.

    Args:
        labels: [n, L], as in `Predictions.labels`; for multilabel the whole vector is the label.
        patients: [n], the patient of each sample.
        kind: Which samples are drawn from.
        seed: The seed of the draws.

    Returns [n]; NO_DONOR where there is no such sample, for example for labels that only one patient has.
    """
    label_of = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    patient_of = np.unique(np.array(patients), return_inverse=True)[1].astype(np.int64)
    if kind == "same_label":
        return _with_same_label(label_of, patient_of, seed)
    return _with_other_labels(label_of, patient_of, seed)


def _with_same_label(label_of: _Integers, patient_of: _Integers, seed: int) -> _Integers:
    """Sorted by label and patient, the candidates are a label's block without the patient's own part of it."""
    order = np.lexsort((patient_of, label_of))
    first, size = _blocks(label_of[order])
    own_first, own_size = _blocks(label_of[order] * (patient_of.max() + 1) + patient_of[order])
    candidates = size - own_size
    place = _draw(candidates, seed, KINDS.index("same_label"), 0, order)
    positions = first + (own_first - first + own_size + place) % size
    found = np.empty_like(order)
    found[order] = np.where(candidates > 0, order[positions], NO_DONOR)
    return found


def _with_other_labels(label_of: _Integers, patient_of: _Integers, seed: int) -> _Integers:
    """Draws from the samples outside the label's block are repeated while they hit the sample's own patient."""
    order = np.argsort(label_of, kind="stable")
    first, size = (values[np.argsort(order)] for values in _blocks(label_of[order]))
    rows, n = np.arange(len(order)), len(order)
    found = np.full(n, NO_DONOR)
    waiting = rows[size < n]
    for attempt in range(_MOST_DRAWS):
        place = _draw(n - size[waiting], seed, KINDS.index("other_labels"), attempt, waiting)
        drawn = order[(first[waiting] + size[waiting] + place) % n]
        other = patient_of[drawn] != patient_of[waiting]
        found[waiting[other]] = drawn[other]
        waiting = waiting[~other]
    for row in waiting.tolist():  # few: nearly all other labels are of the same patient
        candidates = np.flatnonzero((label_of != label_of[row]) & (patient_of != patient_of[row]))
        if len(candidates):
            found[row] = candidates[int(hash64(seed, row, _MOST_DRAWS)) % len(candidates)]
    return found


def _blocks(values: _Integers) -> tuple[_Integers, _Integers]:
    """For each of n sorted values the position of the first equal one, and the number of equal ones."""
    starts: Bools = np.diff(values, prepend=values[0] - 1) != 0
    block = np.cumsum(starts) - 1
    return np.flatnonzero(starts)[block], np.bincount(block)[block]


def _draw(limits: _Integers, seed: int, kind: int, attempt: int, rows: _Integers) -> _Integers:
    """A uniform integer below each limit; 0 for a limit of 0."""
    bits = hash64(seed, kind, attempt, rows)
    return np.asarray(bits % np.maximum(limits, 1).astype(np.uint64), dtype=np.int64)
