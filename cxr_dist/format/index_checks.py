"""Check that an index could have been written by `cxr-dist shard`: byte ranges, classes and keys are valid.

All reading by index relies on this. A sha256 only says that the index and the manifest agree with each other.
"""

import numpy as np
from numpy.typing import NDArray

_KEY_BYTES = np.zeros(256, bool)
_KEY_BYTES[list(b"\0-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = True


def index_is_sound(index: NDArray[np.void], tar_bytes: int, num_groups: int) -> bool:
    """Return whether every record of an index (shape [samples], dtype of `index_dtype`) is possible for this tar."""
    start, stop = _range(index, "offset", "size")
    spans = (start >= 0) & (stop > start) & (stop <= tar_bytes)
    for kind in ("jpg", "json"):
        first, last = _range(index, f"{kind}_offset", f"{kind}_size")
        first, last = first.reshape(len(index), -1), last.reshape(len(index), -1)
        inside = (first >= start[:, None]) & (last >= first) & (last <= stop[:, None])
        spans &= inside.all(axis=1)
    if index["jpg_size"].ndim == 2:
        present = index["jpg_size"] > 0
        spans &= present[:, 0] & (present[:, :-1] >= present[:, 1:]).all(axis=1)  # missing images come last
    group, label = index["group"], index["label"]
    classes = (group >= 0) & (group < num_groups) & (label >= -1).all(axis=1)
    classes &= (label < max(2, num_groups)).all(axis=1)
    keys = _KEY_BYTES[np.frombuffer(index["key"].tobytes(), np.uint8)]
    return bool(spans.all() and classes.all() and keys.all())


def _range(index: NDArray[np.void], offset: str, size: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first byte and the byte after the last; offsets are clipped so that the sum cannot overflow."""
    start = np.clip(index[offset].astype(np.int64), -1, 2**62)
    return start, start + index[size].astype(np.int64)
