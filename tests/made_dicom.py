"""Write small DICOM radiographs in every transfer syntax, and decode them by a plain pydicom pipeline.

imagecodecs encodes what pydicom cannot.
"""

import io
import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr_dist.format.dicom import PERCENTILES, decode_dicom

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (*NATIVE, RLELossless, JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)
LOSSY = {JPEGBaseline8Bit: 8, JPEGExtended12Bit: 12}  # and the most bits


def radiograph(pixels: NDArray[Any], bits: int, syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """A data set of grey pixels [H, W] with `bits` bits stored; `elements` are set last, None deletes one."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    made.Modality = "CR"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = pixels.shape
    made.BitsAllocated, made.BitsStored, made.HighBit = pixels.dtype.itemsize * 8, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = _encoded(pixels, bits, syntax, made)
    made["PixelData"].VR = (
        "OB" if syntax not in NATIVE or (pixels.dtype.itemsize == 1 and syntax != NATIVE[0]) else "OW"
    )
    made["PixelData"].is_undefined_length = syntax not in NATIVE
    for name, value in elements.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def content(made: Dataset) -> bytes:
    """The bytes of a file, with preamble."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def as_dicom(grey: NDArray[np.uint8], *, negative: bool = False, **elements: Any) -> bytes:
    """A file that shows these grey pixels [H, W] as they are; `negative` stores them as MONOCHROME1."""
    photometric = "MONOCHROME1" if negative else "MONOCHROME2"
    shown = {"PhotometricInterpretation": photometric, "WindowCenter": 128, "WindowWidth": 256}
    return content(radiograph(255 - grey if negative else grey, 8, **shown | elements))


def picture(bits: int, signed: bool = False, shape: tuple[int, int] = (48, 44)) -> NDArray[Any]:
    """Pixels that use the whole range of `bits` bits, smooth but for some noise; the padding value 3 occurs."""
    place = np.linspace(0, 1, shape[0])[:, None] * 0.6 + np.linspace(0, 1, shape[1]) * 0.4
    noisy = place + np.random.default_rng(bits).normal(0, 0.02, shape)
    values = np.round(np.clip(noisy, 0, 1) * (2**bits - 1)).astype(np.int64)
    values[:2, :3] = 3
    kind = np.int8 if bits <= 8 else np.int16
    if signed:
        return (values - 2 ** (bits - 1)).astype(kind)
    return values.astype(np.dtype(kind).str.replace("i", "u"))


def _encoded(pixels: NDArray[Any], bits: int, syntax: UID, made: Dataset) -> bytes:
    if syntax in NATIVE:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        plain = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        return plain + b"\0" * (len(plain) % 2)
    if syntax in (RLELossless, JPEG2000Lossless):
        other = radiograph(pixels, bits)
        other.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        return bytes(other.PixelData)
    import imagecodecs

    unsigned = np.ascontiguousarray(pixels.view(pixels.dtype.str.replace("i", "u")))
    unsigned = unsigned & unsigned.dtype.type(2**bits - 1)
    frame = {
        JPEGLosslessSV1: lambda: imagecodecs.ljpeg_encode(unsigned, bitspersample=bits),
        JPEGLossless: lambda: imagecodecs.ljpeg_encode(unsigned, bitspersample=bits),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(unsigned),
        HTJ2KLossless: lambda: imagecodecs.htj2k_encode(unsigned, reversible=True),
        JPEGBaseline8Bit: lambda: imagecodecs.jpeg8_encode(unsigned, level=95),
        JPEGExtended12Bit: lambda: imagecodecs.jpeg8_encode(unsigned, level=95, bitspersample=12),
    }[syntax]()
    return encapsulate([frame])


def plain(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """The pipeline of DICOM PS3.4, annex N.2, in a few lines over the stored values [H, W] of the whole image."""
    modal = apply_modality_lut(stored, data)
    padding = np.zeros(stored.shape, bool)
    if "PixelPaddingValue" in data:
        last = data.get("PixelPaddingRangeLimit", data.PixelPaddingValue)
        padding = (stored >= min(data.PixelPaddingValue, last)) & (stored <= max(data.PixelPaddingValue, last))
    if data.get("VOILUTSequence"):
        low, high = 0, 2 ** data.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif data.get("WindowWidth") is not None:
        lowest, highest = (-(2 ** (data.BitsStored - 1)), 2 ** (data.BitsStored - 1) - 1)
        if not data.PixelRepresentation:
            lowest, highest = 0, 2**data.BitsStored - 1
        slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        low, high = (lowest * slope + intercept, highest * slope + intercept)
        if "ModalityLUTSequence" in data:
            low, high = 0, 2 ** data.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        low, high = map(float, np.percentile(modal[~padding], PERCENTILES, method="inverted_cdf"))
    shown = apply_voi_lut(modal, data).astype(np.float64)
    grey = np.round(np.clip((shown - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    grey = 255 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey
    grey[padding] = 0
    return grey


def lut_item(entries: int, first: int, bits: int) -> Dataset:
    """An item of a LUT sequence: a curve from 0 to the highest value of `bits` bits."""
    item = Dataset()
    item.LUTDescriptor = [entries, first, bits]
    item.LUTData = np.round(np.linspace(0, 1, entries) ** 2 * (2**bits - 1)).astype(int).tolist()
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


def agrees(data: Dataset, pixels: np.ndarray | None) -> bool:
    """Whether our grey is that of the plain pipeline; pixels of a lossy syntax are those that pydicom decodes."""
    file = content(data)
    read = pydicom.dcmread(io.BytesIO(file))
    return np.array_equal(decode_dicom(file), plain(read, read.pixel_array if pixels is None else pixels))
