"""Decode a DICOM radiograph to grey 8-bit pixels, as a viewer shows it with its default settings.

The steps are those of DICOM PS3.4, annex N.2: modality LUT or rescale, then VOI LUT or window (the first of several),
then inversion for MONOCHROME1. Where there is neither VOI LUT nor window, the 0.5th and the 99.5th percentile of the
image's values become black and white. Padding becomes black and is not counted among the values. Overlays are not
drawn, also not those in the unused bits of pixels.

pydicom computes each step, once for every value that a pixel can have; the image is then looked up in that table.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError
from cxr_dist.format.codestream import jpeg_2000_size, jpeg_frame_size
from cxr_dist.format.dicom_header import JPEG_2000, NATIVE, RLE, DicomFile, check_image, open_dicom
from cxr_dist.format.left_out import UNREADABLE_IMAGE, ImageProblem

if TYPE_CHECKING:
    from pydicom import Dataset

PERCENTILES = (0.5, 99.5)
"""The values that become black and white where the file states neither a window nor a VOI LUT."""
_STRIP = 256  # rows that are looked up at once; indexing takes eight bytes per pixel
_RLE_MOST = 64  # pixels' bytes that a byte of RLE can stand for


def decode_dicom(content: bytes) -> NDArray[np.uint8]:
    """Return grey pixels [H, W], 0 black to 255 white.

    Raises ImageProblem with a reason for a file that is damaged or is not one grey image of CR, DX or RG, and UserError
    if the packages of the extra `dicom` are not installed.
    """
    file = open_dicom(content)
    shape = check_image(file)
    patterns = _bit_patterns(file, shape)
    grey = np.empty(shape, np.uint8)
    table = _table(file, patterns)
    for top in range(0, shape[0], _STRIP):
        grey[top : top + _STRIP] = table[patterns[top : top + _STRIP]]
    return grey


def dicom_size(content: bytes) -> tuple[int, int]:
    """Return width and height in pixels from the header; raises as `decode_dicom` does."""
    height, width = check_image(open_dicom(content))
    return width, height


def _bit_patterns(file: DicomFile, shape: tuple[int, int]) -> NDArray[np.unsignedinteger[Any]]:
    """Return the stored bits of each pixel [H, W] as unsigned numbers, without the bits above and below them."""
    from pydicom.filereader import read_dataset
    from pydicom.pixels import get_decoder

    header = file.header
    header.PixelRepresentation = header.get("PixelRepresentation") or 0
    if not header.get("VOILUTFunction"):
        header.VOILUTFunction = "LINEAR"
    pixels = read_dataset(
        file.rest,
        file.syntax == NATIVE[0],
        file.syntax != NATIVE[3],
        stop_when=lambda tag, vr, length: tag >> 16 > 0x7FE0,
    )
    if "PixelData" not in pixels:
        raise ImageProblem(UNREADABLE_IMAGE)
    header.PixelData = pixels.PixelData
    header["PixelData"].is_undefined_length = file.syntax not in NATIVE
    header.NumberOfFrames = 1
    stored = int(header.BitsStored)
    decoder, plugin = get_decoder(file.syntax), ""
    if file.syntax not in NATIVE:
        _check_frame(file, shape)
        plugin = "pylibjpeg"  # always the same one, whatever else is installed
        if plugin not in decoder.available_plugins:
            raise UserError(
                "the image is a compressed DICOM file, and the packages that decompress it are not installed: "
                "pip install 'cxr_dist[dicom]'"
            )
    try:
        raw, _ = decoder.as_array(header, raw=True, decoding_plugin=plugin, view_only=True, correct_unused_bits=False)
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of the decoder of RLE, which is no Exception
            raise ImageProblem(UNREADABLE_IMAGE) from None
        raise
    if raw.shape != shape or raw.dtype.itemsize * 8 > 16:
        raise ImageProblem(UNREADABLE_IMAGE)
    unsigned = raw.astype(raw.dtype.newbyteorder("="), copy=False).view(f"u{raw.dtype.itemsize}")
    shift = int(header.get("HighBit", stored - 1)) + 1 - stored if file.syntax in (*NATIVE, RLE) else 0
    return np.asarray((unsigned >> shift) & (2**stored - 1))


def _check_frame(file: DicomFile, shape: tuple[int, int]) -> None:
    """Raise ImageProblem unless the compressed image itself says that it has this shape, or may have it."""
    from pydicom.encaps import get_frame

    frame = bytes(get_frame(file.header.PixelData, 0, number_of_frames=1))
    if file.syntax == RLE:
        fits = math.prod(shape) * int(file.header.BitsAllocated) // 8 <= _RLE_MOST * len(frame)
    else:
        fits = (jpeg_2000_size if file.syntax in JPEG_2000 else jpeg_frame_size)(frame) == shape
    if not fits:
        raise ImageProblem(UNREADABLE_IMAGE)


def _table(file: DicomFile, patterns: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
    """Return the grey of every bit pattern that a pixel can have."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    header, bits = file.header, int(file.header.BitsStored)
    values = np.arange(2**bits, dtype=np.int32)
    if header.get("PixelRepresentation") == 1:
        values[2 ** (bits - 1) :] -= 2**bits
    padding = _is_padding(header, values)
    modal = np.asarray(apply_modality_lut(values, header))
    if (range_ := _voi_range(header)) is not None:
        shown, (low, high) = np.asarray(apply_voi_lut(modal, header, index=0), np.float64), range_
    else:
        shown, (low, high) = modal.astype(np.float64), _percentiles(modal, padding, patterns)
    if high != low:  # they are exchanged where the rescale slope is negative
        grey = np.round(np.clip((shown - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    else:
        grey = np.zeros(len(values), np.uint8)
    if file.inverted:
        grey = 255 - grey
    grey[padding] = 0
    return grey


def _is_padding(header: "Dataset", values: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which of the values stand for no tissue (PS3.3, section C.7.5.1.1.2)."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(values), np.bool_)
    last = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    return np.asarray((values >= low) & (values <= high))


def _voi_range(header: "Dataset") -> tuple[float, float] | None:
    """Return the lowest and the highest output of the VOI LUT or window; None if the file has no valid one."""
    from pydicom.pixels import apply_windowing

    if header.get("VOILUTSequence"):
        item = header.VOILUTSequence[0]
        if item.get("LUTDescriptor") is not None and item.get("LUTData") is not None:
            return 0.0, 2.0 ** int(item.LUTDescriptor[2]) - 1
        del header.VOILUTSequence
    centre, width = (_first_number(header, name) for name in ("WindowCenter", "WindowWidth"))
    least = 1 if header.VOILUTFunction == "LINEAR" else 1e-9
    if centre is None or width is None or width < least:
        return None
    low, high = apply_windowing(np.array([-np.inf, np.inf]), header, index=0)
    return float(low), float(high)


def _first_number(header: "Dataset", name: str) -> float | None:
    values = np.atleast_1d(np.asarray(header.get(name), dtype=object))
    number = float(values[0]) if len(values) and values[0] not in (None, "") else math.nan
    return number if math.isfinite(number) else None


def _percentiles(
    modal: NDArray[Any], padding: NDArray[np.bool_], patterns: NDArray[np.unsignedinteger[Any]]
) -> tuple[float, float]:
    """Return the values at PERCENTILES of the pixels that are no padding; (0, 0) if all are."""
    counts = np.zeros(len(modal), np.int64)
    for top in range(0, len(patterns), _STRIP):
        counts += np.bincount(patterns[top : top + _STRIP].ravel(), minlength=len(modal))
    counts[padding] = 0
    if not counts.any():
        return 0.0, 0.0
    order = np.argsort(modal, kind="stable")
    below = np.cumsum(counts[order])
    places = np.searchsorted(below, np.asarray(PERCENTILES) / 100 * below[-1])
    low, high = (float(modal[order[place]]) for place in places)
    return low, high
