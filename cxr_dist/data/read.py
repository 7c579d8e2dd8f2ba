"""Read and decode samples, and replace damaged ones.

A replacement is a pure function of (seed, epoch, draw) and the shard, so a run with damaged samples is the same at any
world size and after a resume. The replacement sample records what it replaces.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import cv2

from cxr_dist.data.batch import Replaced
from cxr_dist.data.plan import replacement_order
from cxr_dist.data.store import SampleError, ShardStore
from cxr_dist.format.stored_sample import REASONS, DamagedSample, decode_facts, decode_jpeg, image_names

SampleDict = dict[str, Any]
"""A WebDataset sample: "__key__", "json", "jpg", further images of a study, and fields that the pipeline adds."""
Read = Callable[[int, int], SampleDict]
"""A function from (shard, sample) to a decoded sample. It raises SampleError for a damaged one."""


def decode_sample(sample: SampleDict, short_side: int, image_size: int | None) -> None:
    """Decode a sample in place: "json" to a dict, "jpg" (and "1.jpg", … of a study) to grey uint8 [h, w].

    If `image_size` is None, images are not decoded (text mode). An image that is stored at twice the needed size or
    more is decoded at half size, which is faster and uses the JPEG's own low-pass filter. Raises DamagedSample.
    """
    sample["json"] = decode_facts(sample["json"])
    if image_size is not None:
        half = short_side >= 2 * image_size
        flag = cv2.IMREAD_REDUCED_GRAYSCALE_2 if half else cv2.IMREAD_GRAYSCALE
        for name in image_names(sample):
            sample[name] = decode_jpeg(sample[name], short_side, flag)


def reader(store: ShardStore, short_side: int, image_size: int | None) -> Read:
    """The function that reads and decodes samples of a store."""

    def read(shard: int, sample: int) -> SampleDict:
        stored = store.read(shard, sample)
        try:
            decode_sample(stored, short_side, image_size)
        except DamagedSample as damage:
            raise SampleError(store.shards[shard].file, sample, damage.reason) from None
        return stored

    return read


class Replacing:
    """Reads the sample of a draw, or a replacement if it is damaged. Without `replace` damage is an error."""

    def __init__(self, store: ShardStore, read: Read, seed: int, *, replace: bool) -> None:
        self.store, self.read, self.seed, self.replace = store, read, seed, replace

    def __call__(self, epoch: int, draw: int, shard: int, sample: int) -> SampleDict:
        """The sample, or another one with "replaced" set; raises SampleError if the whole shard is damaged."""
        try:
            return self.read(shard, sample)
        except SampleError as error:
            if not self.replace:
                raise
            groups = self.store.index(shard)["group"]
            for other in replacement_order(self.seed, epoch, draw, sample, groups).tolist():
                replaced = Replaced(draw, shard, sample, other, REASONS.index(error.reason))
                with contextlib.suppress(SampleError):
                    return self.read(shard, other) | {"replaced": replaced}
            raise
