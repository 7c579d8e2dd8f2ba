"""One sample, decoded: (shard, sample) in, pixels and facts out, or an error; and the replacement of damaged ones.

A replacement is a pure function of (seed, epoch, draw) and the shard, so that a run with damaged samples is the
same at any world size and after a resume. What was replaced travels with the sample to the ledger.
"""

from collections.abc import Callable
from typing import Any

import cv2

from cxr_dist.data.batch import Replaced
from cxr_dist.data.plan import replacement_order
from cxr_dist.data.store import SampleError, ShardStore
from cxr_dist.format.stored_sample import REASONS, DamagedSample, decode_facts, decode_jpeg, image_names

SampleDict = dict[str, Any]
"""A sample as webdataset has it: "__key__", "json", "jpg", a study's further films, and what the pipeline adds."""
Read = Callable[[int, int], SampleDict]
"""From (shard, sample) to a decoded sample; raises SampleError."""


def decode(sample: SampleDict, short_side: int, image_size: int | None) -> None:
    """In place: "jpg" to grey uint8 [h, w], "json" to a dict; `image_size` None leaves films out (text mode).

    So is each further film of a study, "1.jpg" and so on.

    A film stored at twice the needed size or more is decoded at half size: the JPEG's own low-pass, and faster.
    Raises DamagedSample.
    """
    sample["json"] = decode_facts(sample["json"])
    if image_size is not None:
        half = short_side >= 2 * image_size
        flag = cv2.IMREAD_REDUCED_GRAYSCALE_2 if half else cv2.IMREAD_GRAYSCALE
        for name in image_names(sample):
            sample[name] = decode_jpeg(sample[name], short_side, flag)


def reader(store: ShardStore, short_side: int, image_size: int | None) -> Read:
    """Reads and decodes samples of a store."""

    def read(shard: int, sample: int) -> SampleDict:
        found = store.read(shard, sample)
        try:
            decode(found, short_side, image_size)
        except DamagedSample as damage:
            raise SampleError(store.shards[shard].file, sample, damage.reason) from None
        return found

    return read


class Replacing:
    """Reads what a draw asks for, or what stands in for it; without `replace` damage is an error."""

    def __init__(self, store: ShardStore, read: Read, seed: int, *, replace: bool) -> None:
        self.store, self.read, self.seed, self.replace = store, read, seed, replace

    def __call__(self, epoch: int, draw: int, shard: int, sample: int) -> SampleDict:
        """The sample, with "replaced" where it is another one; raises SampleError where none of the shard is whole."""
        try:
            return self.read(shard, sample)
        except SampleError as error:
            if not self.replace:
                raise
            return self._instead(epoch, draw, shard, sample, error)

    def _instead(self, epoch: int, draw: int, shard: int, sample: int, error: SampleError) -> SampleDict:
        groups = self.store.index(shard)["group"]
        for other in replacement_order(self.seed, epoch, draw, sample, groups).tolist():
            try:
                found = self.read(shard, other)
            except SampleError:
                continue
            reason = REASONS.index(error.reason)
            return found | {"replaced": Replaced(draw, shard, sample, other, reason)}
        raise error
