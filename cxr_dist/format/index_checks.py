"""Whether an index can be what `cxr-dist shard` wrote: byte ranges inside the tar, known classes, plain keys.

Everything that reads by index relies on it, and a sha256 only says that index and manifest agree with each other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEY_BYTES = np.zeros(256, bool)
_KEY_BYTES[list(b"\0-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = True


def index_is_sound(index: NDArray[Any], tar_bytes: int, num_groups: int) -> bool:
    """True where every record of an index (shape [samples], dtype of `index_dtype`) is possible for such a tar."""
    start, stop = _range(index, "offset", "size")
    spans = (start >= 0) & (stop > start) & (stop <= tar_bytes)
    for kind in ("jpg", "json"):
        first, last = _range(index, f"{kind}_offset", f"{kind}_size")
        first, last = first.reshape(len(index), -1), last.reshape(len(index), -1)
        inside = (first >= start[:, None]) & (last >= first) & (last <= stop[:, None])
        spans &= inside.all(axis=1)
    if index["jpg_size"].ndim == 2:
        films = index["jpg_size"] > 0
        spans &= films[:, 0] & (films[:, :-1] >= films[:, 1:]).all(axis=1)  # those that are missing come last
    group, label = index["group"], index["label"]
    classes = (group >= 0) & (group < num_groups) & (label >= -1).all(axis=1)
    classes &= (label < max(2, num_groups)).all(axis=1)
    keys = _KEY_BYTES[np.frombuffer(index["key"].tobytes(), np.uint8)]
    return bool(spans.all() and classes.all() and keys.all())


def _range(index: NDArray[Any], offset: str, size: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte, and the one after the last; an offset beyond what a file can have is none at all."""
    start = np.clip(index[offset].astype(np.int64), -1, 2**62)
    return start, start + index[size].astype(np.int64)
