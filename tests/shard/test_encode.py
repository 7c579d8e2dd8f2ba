"""Images are encoded in order and only a few ahead of the writer, and a worker that dies is reported."""

import os
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest

from cxr_dist.errors import UserError
from cxr_dist.format.image import encode_jpeg
from cxr_dist.format.left_out import UNREADABLE_IMAGE, ImageProblem
from cxr_dist.shard.encode import encode_all
from cxr_dist.shard.recipe import ImageFormat

IMAGE_FORMAT = ImageFormat(short_side=8, quality=90)


@dataclass(frozen=True)
class Flat:
    """A constant image."""

    grey: int

    def exists(self) -> bool:
        return True

    def read(self, short_side: int) -> np.ndarray:
        if self.grey == 255:
            raise ImageProblem(UNREADABLE_IMAGE)
        return np.full((8, 8), self.grey, np.uint8)


@dataclass(frozen=True)
class Deadly:
    """An image whose reading kills the process, as the kernel does when memory runs out."""

    def exists(self) -> bool:
        return True

    def read(self, short_side: int) -> np.ndarray:
        os._exit(9)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_kept_and_a_problem_takes_the_place_of_its_image(workers):
    greys = [*range(100), 255, *range(50)]
    encoded = list(encode_all(map(Flat, greys), IMAGE_FORMAT, workers))
    assert [isinstance(jpeg, ImageProblem) for jpeg in encoded] == [grey == 255 for grey in greys]
    assert encoded[100].reason == UNREADABLE_IMAGE
    assert encoded[70] == encode_jpeg(np.full((8, 8), 70, np.uint8), 90)


def test_only_a_few_images_are_encoded_ahead_of_the_writer():
    taken = []
    images = (taken.append(number) or Flat(number % 200) for number in range(10_000))
    stream = encode_all(images, IMAGE_FORMAT, 2)
    assert len(list(islice(stream, 20))) == 20
    stream.close()
    assert len(taken) < 200


def test_a_killed_worker_is_reported_as_one_clear_error():
    with pytest.raises(UserError, match=r"a worker process was killed.*use fewer --workers than 1"):
        list(encode_all([Deadly()], IMAGE_FORMAT, 1))
