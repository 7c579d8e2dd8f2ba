"""Images with detail at many scales, drawn from noise, and the distortions that a republished copy can have."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def texture(seed: int, height: int = 160, width: int = 144) -> Image:
    """Noise with structures of many sizes, of which the coarse ones are the strongest, as in natural images."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.float32)
    for cells in (3, 6, 12, 24, 48):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / np.sqrt(cells)
    return np.asarray(np.clip(128 + 60 * image, 0, 255), np.uint8)


def saved_again(image: Image) -> Image:
    """Save the image as a strongly compressed JPEG and read it again."""
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0), np.uint8)


def halved(image: Image) -> Image:
    """Reduce the image to half its size."""
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


def brightened(image: Image) -> Image:
    """Increase the contrast by a tenth and the brightness by 12 of 255."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=1.1, beta=12), np.uint8)


def cropped(image: Image, share: float = 0.02) -> Image:
    """Remove `share` of the height and width at each side."""
    y, x = (round(side * share) for side in image.shape)
    return image[y : len(image) - y, x : image.shape[1] - x]


def turned(image: Image) -> Image:
    """Rotate the image by one degree, with black corners."""
    height, width = image.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 1, 1)
    return np.asarray(cv2.warpAffine(image, turn, (width, height)), np.uint8)


def all_at_once(image: Image) -> Image:
    """Crop, rotate, brighten and save the image again."""
    return saved_again(brightened(turned(cropped(image))))


DISTORTIONS: dict[str, Callable[[Image], Image]] = {
    "same": lambda image: image,
    "saved again": saved_again,
    "halved": halved,
    "brightened": brightened,
    "cropped": cropped,
    "turned": turned,
    "all at once": all_at_once,
}
