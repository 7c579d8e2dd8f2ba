"""An image that a user gives, as a path or in memory, becomes grey pixels as sharding would have stored them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_dist.errors import UserError
from cxr_dist.format.image import ImageFile, decode_image, pillow_to_grey, shrink, to_8_bits
from cxr_dist.format.left_out import ImageProblem

GivenImage = str | Path | bytes | Image.Image | NDArray[Any]
"""A PNG, JPEG or DICOM file as a path or as its bytes, a Pillow image, or an array [H, W] (grey) or [H, W, 3] (colour).

An array is uint8, 0 black to 255 white; or uint16, of which the smallest value becomes black and the largest white, as
for a 16-bit PNG; or floating point, 0 black to 1 white.
"""


def grey_pixels(image: GivenImage, short_side: int) -> NDArray[np.uint8]:
    """Return [H, W], 0 black to 255 white, with a short side of at most `short_side` pixels; raises UserError."""
    try:
        if isinstance(image, str | Path):
            return ImageFile(path=Path(image)).read(short_side)
        if isinstance(image, bytes | bytearray | memoryview):
            return shrink(decode_image(io.BytesIO(image), short_side), short_side)
        if isinstance(image, Image.Image):
            return shrink(pillow_to_grey(image), short_side)
        return shrink(_of_array(np.asarray(image)), short_side)
    except ImageProblem as problem:
        expected = (
            "a PNG, JPEG or DICOM file" if isinstance(image, str | Path | bytes) else "an image that Pillow can decode"
        )
        raise UserError(f"the image cannot be used: {problem.reason}; expected {expected}") from None


def _of_array(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the grey 8-bit pixels [H, W] of an array; raises UserError for another shape, type or range."""
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise UserError(
            f"the image is an array of shape {list(pixels.shape)}; expected [height, width] for a grey image, or "
            "[height, width, 3] for a colour image"
        )
    kind = pixels.dtype
    if kind == np.uint16:
        eight = to_8_bits(pixels)
    elif np.issubdtype(kind, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not 0 <= low <= high <= 1:  # false for NaN
            raise UserError(
                f"the image is an array of {kind} with values from {low:.4g} to {high:.4g}; expected 0 (black) to 1 "
                "(white): divide by the largest value that the pixels can have"
            )
        eight = np.round(pixels * 255).astype(np.uint8)
    elif kind == np.uint8:
        eight = pixels
    else:
        raise UserError(
            f"the image is an array of {kind}; expected uint8 (0 to 255), uint16 (scaled from its smallest and largest "
            "value, as a 16-bit PNG is) or floating point (0 to 1): convert it with astype"
        )
    return pillow_to_grey(Image.fromarray(np.ascontiguousarray(eight)))
