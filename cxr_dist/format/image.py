"""Image files into grey 8-bit pixels, and pixels into the JPEG that is stored.

Takes what real folders hold: grey, colour, palette and transparent images, 16 bit, a file ending that lies,
EXIF orientation. The format and the size are known from the header before any pixel is decoded.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cxr_dist.errors import out_of_files
from cxr_dist.format.left_out import MISSING_IMAGE, TOO_LARGE_IMAGE, UNREADABLE_IMAGE, ImageProblem
from cxr_dist.format.stored_sample import PIXEL_LIMIT

SIDE_LIMIT = 65_500  # of a JPEG
_FORMATS = ("JPEG", "PNG")  # by content; Pillow would otherwise run EPS through Ghostscript


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A film in a file; `inverted` where it is stored with black bone (MONOCHROME1)."""

    path: Path
    inverted: bool = False

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Pixels [H, W], 0 black to 255 white, short side at most `short_side`; raises ImageProblem."""
        grey = shrink(_decode(self.path, short_side), short_side)
        return 255 - grey if self.inverted else grey


def shrink(grey: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """Scale [H, W] by area so that the short side has `short_side` pixels; a smaller image stays as it is."""
    height, width = grey.shape
    scale = short_side / min(height, width)
    if scale >= 1:
        return grey
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(grey: NDArray[np.uint8], quality: int) -> bytes:
    """Grey JPEG of [H, W] at a quality of 1 to 100; the same pixels give the same bytes."""
    done, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return bytes(data)


def _decode(path: Path, short_side: int) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(path, formats=_FORMATS)
        with image:
            if _too_large(image):
                raise ImageProblem(TOO_LARGE_IMAGE)
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, and its luma alone: a fraction of the time.
            # Twice the wanted size is left for scaling by area, which near 1:1 would blur.
            image.draft("L", (2 * short_side, 2 * short_side))
            ImageOps.exif_transpose(image, in_place=True)  # a copy of 2,048² pixels costs 6% of reading them
            return _to_grey(image)
    except FileNotFoundError:
        raise ImageProblem(MISSING_IMAGE) from None
    except Image.DecompressionBombError:
        raise ImageProblem(TOO_LARGE_IMAGE) from None
    except (ImageProblem, MemoryError):
        raise
    except Exception as error:  # of a damaged file: OSError, SyntaxError, ValueError, zlib.error, ...
        raise out_of_files(error) or ImageProblem(UNREADABLE_IMAGE) from None


def _too_large(image: Image.Image) -> bool:
    several = "A" in image.mode or "transparency" in image.info or image.mode.startswith(("I", "F"))
    limit = PIXEL_LIMIT // 2 if several else PIXEL_LIMIT
    return image.width * image.height > limit or max(image.size) > SIDE_LIMIT


def _to_grey(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        return _window(np.asarray(image))
    if "A" in image.mode or "transparency" in image.info:
        # Outside the film, a transparent pixel may hold any colour: lay the film on black.
        film = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", film.size, "black"), film)
    return np.asarray(image if image.mode == "L" else image.convert("L"), np.uint8)


def _window(values: NDArray[Any]) -> NDArray[np.uint8]:
    """More than 8 bits [H, W] to 0..255, from the darkest to the brightest pixel; a constant image is black."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.round((values.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
