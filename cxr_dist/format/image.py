"""Read image files as grey 8-bit pixels, and encode pixels as the JPEG that a shard stores.

Grey, colour, palette, transparent and 16-bit images are read, whatever the file's ending says, and the EXIF
orientation is applied; DICOM files are left to format/dicom.py. The format and the size are checked in the header
before any pixel is decoded. A file of which the decoder would only warn, or whose checksum is wrong, is damaged.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import open_regular
from cxr_dist.format.dicom import decode_dicom, dicom_size
from cxr_dist.format.dicom_header import is_dicom
from cxr_dist.format.left_out import MISSING_IMAGE, TOO_LARGE_IMAGE, UNREADABLE_IMAGE, ImageProblem
from cxr_dist.format.source_jpeg import check_cmyk, decode_strictly
from cxr_dist.format.stored_sample import PIXEL_LIMIT

SIDE_LIMIT = 65_500  # pixels; the most that a JPEG encoder accepts
_FIRST_TURNED = 5  # EXIF orientations from 5 on exchange width and height
_BYTE_LIMIT = 2**29  # an uncompressed image of PIXEL_LIMIT pixels has fewer
_FORMATS = (
    "JPEG",
    "PNG",
)  # recognised by content; without this list, Pillow would run EPS files through Ghostscript


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image in a file; `inverted` says that bone is stored as black (MONOCHROME1).

    A DICOM file says so itself, so `inverted` does not count for it.
    """

    path: Path
    inverted: bool = False

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels as the image is shown, from the header; None if that cannot be read."""
        try:
            with open_regular(self.path) as file:
                if _is_dicom(file):
                    return dicom_size(_content(file))
                image = _opened(file)
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= _FIRST_TURNED
                return (image.height, image.width) if turned else image.size
        except UserError:
            raise
        except Exception as error:  # as in `read`
            if reason := out_of_files(error):
                raise reason from None
            return None

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Pixels [H, W], 0 black to 255 white, short side at most `short_side`; raises ImageProblem."""
        try:
            with open_regular(self.path) as file:
                grey = shrink(decode_image(file, short_side), short_side)
                return 255 - grey if self.inverted and not _is_dicom(file) else grey
        except FileNotFoundError:
            raise ImageProblem(MISSING_IMAGE) from None
        except (ImageProblem, MemoryError, UserError):
            raise
        except Exception as error:
            raise out_of_files(error) or ImageProblem(UNREADABLE_IMAGE) from None


def shrink(grey: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """Scale [H, W] by area to a short side of `short_side` pixels; a smaller image is returned unchanged."""
    height, width = grey.shape
    scale = short_side / min(height, width)
    if scale >= 1:
        return grey
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(grey: NDArray[np.uint8], quality: int) -> bytes:
    """Encode [H, W] as a grey JPEG of quality 1 to 100; the same pixels give the same bytes."""
    done, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return bytes(data)


def decode_image(file: BinaryIO, short_side: int) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG or DICOM file to grey pixels [H, W], a JPEG at a lower size if that is enough.

    Raises ImageProblem, and UserError for a DICOM file without the packages of the extra `dicom`.
    """
    try:
        if _is_dicom(file):
            return decode_dicom(_content(file))
        image = _opened(file)
        if image.format == "PNG":
            image.verify()  # compares the checksum of every chunk; the file must then be opened again
            image = _opened(file)
        elif image.mode in ("L", "RGB"):
            # Decoding the luma of a JPEG at 1/2, 1/4 or 1/8 of its size takes a fraction of the time. We keep twice
            # the wanted size, because scaling by area blurs when the ratio is close to 1.
            grey = Image.fromarray(decode_strictly(_content(file), 2 * short_side))
            grey.info = image.info  # with the orientation
            image = grey
        else:
            check_cmyk(_content(file))
        ImageOps.exif_transpose(image, in_place=True)
        return _to_grey(image)
    except Image.DecompressionBombError:
        raise ImageProblem(TOO_LARGE_IMAGE) from None
    except (ImageProblem, MemoryError, UserError):
        raise
    except Exception as error:  # a damaged file can raise OSError, SyntaxError, ValueError, zlib.error, ...
        raise out_of_files(error) or ImageProblem(UNREADABLE_IMAGE) from None


def pillow_to_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Return a Pillow image of any mode as grey pixels [H, W], upright; raises ImageProblem. It is not changed."""
    try:
        if _too_large(image):
            raise ImageProblem(TOO_LARGE_IMAGE)
        return _to_grey(ImageOps.exif_transpose(image))
    except (ImageProblem, MemoryError):
        raise
    except Exception as error:  # Pillow decodes a file only now, which can raise as in decode_image
        raise out_of_files(error) or ImageProblem(UNREADABLE_IMAGE) from None


def _opened(file: BinaryIO) -> Image.Image:
    """Read the header only; raises ImageProblem for too many pixels or bytes."""
    if file.seek(0, os.SEEK_END) > _BYTE_LIMIT:
        raise ImageProblem(UNREADABLE_IMAGE)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
        image = Image.open(file, formats=_FORMATS)
    if _too_large(image):
        raise ImageProblem(TOO_LARGE_IMAGE)
    return image


def _is_dicom(file: BinaryIO) -> bool:
    """Raises ImageProblem for too many bytes."""
    if file.seek(0, os.SEEK_END) > _BYTE_LIMIT:
        raise ImageProblem(UNREADABLE_IMAGE)
    file.seek(0)
    return is_dicom(file.read(132))


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _too_large(image: Image.Image) -> bool:
    several_bytes = "A" in image.mode or "transparency" in image.info or image.mode.startswith(("I", "F"))
    limit = PIXEL_LIMIT // 2 if several_bytes else PIXEL_LIMIT
    return image.width * image.height > limit or max(image.size) > SIDE_LIMIT


def _to_grey(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        return to_8_bits(np.asarray(image))
    if "A" in image.mode or "transparency" in image.info:
        # A transparent pixel can hold any colour: put a black background behind the image.
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return np.asarray(image if image.mode == "L" else image.convert("L"), np.uint8)


def to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale numbers [H, W] so that the darkest pixel is 0 and the brightest 255; a constant image becomes black."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.round((values.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
