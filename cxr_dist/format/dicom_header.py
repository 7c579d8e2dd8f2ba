"""Read the header of a DICOM file and decide by it whether its image can be decoded, before any pixel is.

The bytes are not trusted. A deflated file is inflated up to a limit, and so many elements are read at most, that
neither nested sequences nor millions of small elements fill the memory. pydicom's own messages quote the content of
elements, so they are switched off.
"""

import io
import logging
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_dist.errors import UserError
from cxr_dist.format.left_out import (
    DICOM_BITS,
    DICOM_COLOUR,
    DICOM_FRAMES,
    DICOM_MODALITY,
    DICOM_SYNTAX,
    DICOM_WITHOUT_IMAGE,
    TOO_LARGE_IMAGE,
    UNREADABLE_IMAGE,
    ImageProblem,
)
from cxr_dist.format.stored_sample import PIXEL_LIMIT

if TYPE_CHECKING:
    from pydicom import Dataset

X_RAY = ("CR", "DX", "RG")
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
"""Uncompressed: implicit and explicit little endian, deflated, explicit big endian."""
RLE = "1.2.840.10008.1.2.5"
JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))
"""Baseline, extended (12 bits), lossless and lossless with prediction from the left, JPEG-LS and near-lossless."""
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
"""JPEG 2000, lossless and lossy, and the same as high-throughput JPEG 2000 (HTJ2K)."""

_DEFLATED, _EXPLICIT_LITTLE = NATIVE[2], NATIVE[1]
_BYTE_LIMIT = 2**27  # of a file, and of an inflated one; an uncompressed image of the most pixels has fewer
_READ_LIMIT = 200_000  # calls of read; a header of 300 elements takes about 900
_PIXEL_GROUP = 0x7FE00000
_TAGS = (
    "SpecificCharacterSet", "Modality", "BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip


class _Counted(io.BytesIO):
    """Bytes that refuse to be read in more than `_READ_LIMIT` pieces."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _READ_LIMIT:
            raise ImageProblem(UNREADABLE_IMAGE)
        return super().read(size)


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """The header of a file, and its bytes from the pixels on."""

    header: "Dataset"
    """The elements that were asked for; its file_meta names the transfer syntax."""
    syntax: str
    rest: _Counted
    """Stands at the pixels, or at the end."""

    @property
    def inverted(self) -> bool:
        """Whether a low value means white."""
        return str(self.header.get("PhotometricInterpretation", "")) == "MONOCHROME1"


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts with these bytes (132 or more, if it has them) is DICOM, with or without preamble."""
    return start[128:132] == b"DICM" or start[:2] in (b"\x02\0", b"\x08\0", b"\0\x08")


def need_pydicom() -> None:
    """Raise UserError if the packages that read DICOM are not installed; switch pydicom's own messages off."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UserError(
            "the image is a DICOM file, and the packages that read it are not installed: pip install 'cxr_dist[dicom]'"
        ) from None
    # Set anew each time, because a thread that leaves warnings.catch_warnings also undoes what was set meanwhile.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def open_dicom(content: bytes, more_tags: tuple[str, ...] = ()) -> DicomFile:
    """Read the header: what pixels need, and `more_tags` by their keywords.

    Raises ImageProblem for a damaged header, and UserError if the packages of the extra `dicom` are not installed.
    """
    need_pydicom()
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    if len(content) > _BYTE_LIMIT or not is_dicom(content[:132]):
        raise ImageProblem(UNREADABLE_IMAGE)
    file = _Counted(content)
    file.seek(132 if content[128:132] == b"DICM" else 0)
    begin = file.tell()
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if file.tell() == begin and not meta:  # no group 2: the syntax must be guessed from the first element
        syntax = _guessed_syntax(content[begin : begin + 8])
    else:
        syntax = str(meta.get("TransferSyntaxUID", "")) or _guessed_syntax(content[file.tell() : file.tell() + 8])
    if syntax == _DEFLATED:
        file = _Counted(_inflated(content[file.tell() :]))
    uid = UID(syntax)
    little = syntax != NATIVE[3]
    header = read_dataset(
        file,
        syntax == NATIVE[0],
        little,
        stop_when=lambda tag, vr, length: tag >= _PIXEL_GROUP,
        specific_tags=[tag for name in (*_TAGS, *more_tags) if (tag := tag_for_keyword(name)) is not None],
    )
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid
    return DicomFile(header=header, syntax=syntax, rest=file)


def check_image(file: DicomFile) -> tuple[int, int]:
    """Return height and width in pixels; raises ImageProblem for anything but one grey X-ray image of 8 to 16 bits."""
    header = file.header
    rows, columns = (int(header.get(name) or 0) for name in ("Rows", "Columns"))
    allocated, stored = int(header.get("BitsAllocated") or 0), int(header.get("BitsStored") or 0)
    highest = int(header.get("HighBit", stored - 1))
    modality = str(header.get("Modality") or "")
    if not (rows and columns) and modality in ("", *X_RAY):
        raise ImageProblem(DICOM_WITHOUT_IMAGE)
    if modality not in X_RAY:
        raise ImageProblem(DICOM_MODALITY)
    photometric = str(header.get("PhotometricInterpretation", ""))
    if int(header.get("SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageProblem(DICOM_COLOUR)
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ImageProblem(DICOM_FRAMES)
    if allocated not in (8, 16) or not 2 <= stored <= highest + 1 <= allocated:
        raise ImageProblem(DICOM_BITS)
    if file.syntax not in (*NATIVE, RLE, *JPEG, *JPEG_2000):
        raise ImageProblem(DICOM_SYNTAX)
    if rows * columns > PIXEL_LIMIT // 2:
        raise ImageProblem(TOO_LARGE_IMAGE)
    return rows, columns


def _guessed_syntax(element: bytes) -> str:
    """Return the transfer syntax of a file that names none, by the first element: its byte order and its VR."""
    if element[:1] == b"\0":
        return NATIVE[3]
    return _EXPLICIT_LITTLE if element[4:6].isalpha() and element[4:6].isupper() else NATIVE[0]


def _inflated(content: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = stream.decompress(content, _BYTE_LIMIT)
    if stream.unconsumed_tail:
        raise ImageProblem(TOO_LARGE_IMAGE)
    if not stream.eof:
        raise ImageProblem(UNREADABLE_IMAGE)
    return plain
