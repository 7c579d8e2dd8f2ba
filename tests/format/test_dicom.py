"""DICOM radiographs become the grey that a plain pydicom pipeline makes of them, in every transfer syntax."""

import io
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from made_dicom import LOSSLESS, LOSSY, agrees, content, lut_item, picture, plain, radiograph
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from cxr_dist.errors import UserError
from cxr_dist.format import left_out
from cxr_dist.format.dicom import decode_dicom
from cxr_dist.format.image import ImageFile, decode_image

SYNTAXES = [*LOSSLESS, *LOSSY]


def kinds():
    """Every syntax with the bits and signs that it can hold."""
    for syntax in SYNTAXES:
        for bits in (8, 10, 12, 14, 15, 16):
            if syntax in LOSSLESS:
                yield from ((syntax, bits, signed) for signed in (False, True))
            elif LOSSY[syntax] == bits:
                yield syntax, bits, False


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("syntax", "bits", "signed"), kinds(), ids=str)
def test_every_syntax_and_depth_is_that_of_the_plain_pipeline(syntax, bits, signed, photometric):
    pixels = picture(bits, signed)
    centre, width = (0 if signed else 2 ** (bits - 1)), 2 ** (bits - 1)
    shown = {"PhotometricInterpretation": photometric}
    for more in ({}, {"WindowCenter": [centre, 5], "WindowWidth": [width, 7]}):
        data = radiograph(pixels, bits, syntax, **shown | more)
        assert agrees(data, pixels if syntax in LOSSLESS else None)


SHADINGS = {
    "a modality LUT": {"ModalityLUTSequence": [lut_item(4096, 0, 16)]},
    "a modality LUT and a window": {
        "ModalityLUTSequence": [lut_item(4096, 0, 16)], "WindowCenter": 20000, "WindowWidth": 30000,
    },
    "a rescale and a window": {
        "RescaleSlope": 0.5, "RescaleIntercept": -300, "WindowCenter": 500, "WindowWidth": 900,
    },
    "a falling rescale": {"RescaleSlope": -1, "RescaleIntercept": 4095},
    "a falling rescale and a window": {
        "RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 2000, "WindowWidth": 1500,
    },
    "a VOI LUT of 8 bits": {"VOILUTSequence": [lut_item(1024, 1000, 8)]},
    "a VOI LUT and a window": {
        "VOILUTSequence": [lut_item(1024, 1000, 12), lut_item(16, 0, 8)], "WindowCenter": 5, "WindowWidth": 5,
    },
    "a sigmoid window": {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
    "an exact linear window": {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
    "a padding value": {"PixelPaddingValue": 3},
    "a range of padding": {"PixelPaddingValue": 400, "PixelPaddingRangeLimit": 0},
    "padding and a window": {"PixelPaddingValue": 3, "WindowCenter": 2000, "WindowWidth": 900},
}  # fmt: skip


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless], ids=str)
@pytest.mark.parametrize("shading", SHADINGS)
def test_every_shading_is_that_of_the_plain_pipeline(shading, syntax, photometric):
    pixels = picture(12)
    data = radiograph(pixels, 12, syntax, PhotometricInterpretation=photometric, **SHADINGS[shading])
    if shading.startswith("a VOI LUT"):
        assert "VOILUTSequence" in data
    assert agrees(data, pixels)


def test_padding_is_black_in_either_photometric_interpretation_and_not_among_the_percentiles():
    pixels = np.tile(np.arange(1000, 1100, dtype=np.uint16), (100, 1))
    pixels[:, :40] = 0
    for photometric, ends in (("MONOCHROME2", (0, 255)), ("MONOCHROME1", (255, 0))):
        data = radiograph(pixels, 12, PhotometricInterpretation=photometric, PixelPaddingValue=0)
        grey = decode_dicom(content(data))
        assert grey[:, :40].max() == 0
        assert (grey[0, 40], grey[0, -1]) == ends


@pytest.mark.parametrize("value", [0, 77, 4095])
def test_a_constant_image_is_black_or_white(value):
    pixels = np.full((40, 40), value, np.uint16)
    assert decode_dicom(content(radiograph(pixels, 12))).max() == 0
    assert decode_dicom(content(radiograph(pixels, 12, PhotometricInterpretation="MONOCHROME1"))).min() == 255
    assert decode_dicom(content(radiograph(pixels, 12, PixelPaddingValue=value))).max() == 0


@pytest.mark.parametrize("window", [(2000, 0), (2000, -3), (2000, ""), ("", "")])
def test_a_window_without_a_width_is_none(window):
    pixels = picture(12)
    data = radiograph(pixels, 12, WindowCenter=window[0], WindowWidth=window[1])
    assert np.array_equal(decode_dicom(content(data)), plain(radiograph(pixels, 12), pixels))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], ids=str)
def test_overlays_are_not_drawn_neither_those_in_unused_bits_nor_the_others(syntax):
    pixels = picture(12)
    with_overlay = pixels | (np.arange(44, dtype=np.uint16) % 2 << 12) | np.uint16(0x8000)
    data = radiograph(with_overlay, 16, syntax, BitsStored=12, HighBit=11)
    data.add_new(0x60000010, "US", 48)
    data.add_new(0x60000011, "US", 44)
    data.add_new(0x60003000, "OW", b"\xff" * (48 * 44 // 8))
    assert np.array_equal(decode_dicom(content(data)), plain(radiograph(pixels, 12), pixels))


def test_bits_that_do_not_begin_at_the_lowest_are_shifted_down():
    pixels = picture(12)
    data = radiograph(pixels << 4, 16, BitsStored=12, HighBit=15)
    assert np.array_equal(decode_dicom(content(data)), plain(radiograph(pixels, 12), pixels))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEG2000Lossless], ids=str)
def test_a_file_is_known_by_its_content_and_needs_no_preamble(tmp_path, syntax):
    pixels = picture(12)
    data = radiograph(pixels, 12, syntax)
    expected = plain(data, pixels)
    (tmp_path / "image.png").write_bytes(content(data))
    assert np.array_equal(ImageFile(path=tmp_path / "image.png", inverted=True).read(48), expected)
    assert ImageFile(path=tmp_path / "image.png").size() == (44, 48)
    assert np.array_equal(decode_image(io.BytesIO(content(data)[132:]), 48), expected)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.10008.1.2.1"], ids=str)
def test_a_bare_data_set_without_file_meta_can_be_read(syntax):
    pixels = picture(12)
    data = radiograph(pixels, 12, pydicom.uid.UID(syntax))
    meta_end = 132 + 12 + data_meta_length(content(data))
    assert np.array_equal(decode_dicom(content(data)[meta_end:]), plain(data, pixels))


def data_meta_length(file: bytes) -> int:
    return int.from_bytes(file[140:144], "little")


REFUSED = {
    left_out.DICOM_MODALITY: {"Modality": "CT"},
    left_out.DICOM_COLOUR: {"PhotometricInterpretation": "PALETTE COLOR"},
    left_out.DICOM_FRAMES: {"NumberOfFrames": 2},
    left_out.DICOM_WITHOUT_IMAGE: {"Rows": None},
    left_out.DICOM_BITS: {"BitsStored": 1},
    left_out.TOO_LARGE_IMAGE: {"Rows": 65535, "Columns": 65535},
    left_out.UNREADABLE_IMAGE: {"Rows": 49},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_one_grey_radiograph_has_one_clear_reason(reason):
    with pytest.raises(left_out.ImageProblem) as problem:
        decode_image(io.BytesIO(content(radiograph(picture(12), 12, **REFUSED[reason]))), 48)
    assert problem.value.reason == reason


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, left_out.DICOM_COLOUR),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, left_out.DICOM_BITS),
        ({"Modality": None}, left_out.DICOM_MODALITY),
        ({"PixelData": None}, left_out.UNREADABLE_IMAGE),
    ],
)
def test_further_files_have_the_same_reasons(more, reason):
    with pytest.raises(left_out.ImageProblem) as problem:
        decode_dicom(content(radiograph(picture(12), 12, **more)))
    assert problem.value.reason == reason


def test_a_transfer_syntax_of_videos_is_refused():
    data = radiograph(picture(8), 8)
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.PixelData = pydicom.encaps.encapsulate([b"no video"])
    with pytest.raises(left_out.ImageProblem, match=left_out.DICOM_SYNTAX):
        decode_dicom(content(data))


def test_without_the_extra_one_line_names_it():
    code = "import sys; sys.modules['pydicom'] = None; from cxr_dist.format.image import decode_image; import io\n"
    code += "decode_image(io.BytesIO(bytes(128) + b'DICM'), 8)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr.strip().splitlines()[-1].startswith("cxr_dist.errors.UserError: the image is a DICOM file")
    assert "pip install 'cxr_dist[dicom]'" in ended.stderr


def test_a_missing_decoder_is_said_in_one_line(monkeypatch):
    decoder = pydicom.pixels.get_decoder(RLELossless)
    monkeypatch.setattr(type(decoder), "available_plugins", ("pydicom",))
    with pytest.raises(UserError, match=r"compressed DICOM file.*dicom"):
        decode_dicom(content(radiograph(picture(12), 12, RLELossless)))
