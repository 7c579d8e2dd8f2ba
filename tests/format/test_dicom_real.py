"""The headers of Open-i and three real DICOM radiographs, each against a plain pydicom pipeline."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torchxrayvision
from made_dicom import LOSSLESS, LOSSY, agrees, lut_item, picture, plain, radiograph

from cxr_dist.format.dicom import decode_dicom
from cxr_dist.format.image import ImageFile

HEADERS = Path(torchxrayvision.__file__).parent / "data" / "nlmcxr_dicom_metadata.csv.gz"


@cache
def open_i() -> pd.DataFrame:
    """What decides on the pixels in the 7,469 published headers, one row per combination."""
    table = pd.read_csv(HEADERS, low_memory=False)
    assert len(table) == 7469
    shading = ["Window Center", "Window Width", "LUT Descriptor", "Rescale Slope", "Rescale Intercept"]
    for name in shading:
        table[f"has {name}"] = table[name].notna()
    kinds = ["Bits Allocated", "Bits Stored", "High Bit", "Pixel Representation", "Photometric Interpretation"]
    return table.drop_duplicates([*kinds, *(f"has {name}" for name in shading)])


@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY], ids=str)
def test_the_combinations_among_the_headers_of_open_i_are_those_of_the_plain_pipeline(syntax):
    tried = 0
    for _, row in open_i().iterrows():
        bits = int(row["Bits Stored"])
        if bits > LOSSY.get(syntax, 16):
            continue
        more: dict[str, object] = {"PhotometricInterpretation": row["Photometric Interpretation"]}
        for name in ("Window Center", "Window Width"):
            if pd.notna(row[name]):
                more[name.replace(" ", "")] = [
                    float(part) for part in str(row[name]).strip("[]").replace("'", "").split(",")
                ]
        if pd.notna(row["LUT Descriptor"]):
            entries, first, depth = (
                int(part) for part in row["LUT Descriptor"].strip("[]").replace("'", "").split(",")
            )
            more["VOILUTSequence"] = [lut_item(entries, first, depth)]
        if pd.notna(row["Rescale Slope"]):
            more |= {"RescaleSlope": row["Rescale Slope"], "RescaleIntercept": row["Rescale Intercept"]}
        pixels = picture(bits)
        assert agrees(radiograph(pixels, bits, syntax, **more), pixels if syntax in LOSSLESS else None)
        tried += 1
    assert tried >= (1 if LOSSY.get(syntax) == 12 else 0 if syntax in LOSSY else 8)


@pytest.mark.shared
class TestRealFilms:
    def test_a_monochrome1_film_is_the_negative_of_the_same_in_monochrome2(self, real_data):
        one, two = (
            ImageFile(path=real_data / "dicom" / f"txv_chest_{name}.dcm").read(4096) for name in ("jpeg", "monochrome1")
        )
        assert one.shape == (1024, 1024)
        assert np.array_equal(two, 255 - one)

    @pytest.mark.parametrize("name", ["RG1_J2KI", "txv_chest_jpeg", "txv_chest_monochrome1"])
    def test_the_real_films_are_those_of_the_plain_pipeline(self, real_data, name):
        path = real_data / "dicom" / f"{name}.dcm"
        data = pydicom.dcmread(path)
        assert np.array_equal(decode_dicom(path.read_bytes()), plain(data, data.pixel_array))

    def test_lungs_are_dark_and_the_spine_is_white(self, real_data):
        grey = decode_dicom((real_data / "dicom" / "RG1_J2KI.dcm").read_bytes())
        assert grey[550:650, 1300:1400].mean() < 160 < 220 < grey[900:1000, 900:1000].mean()
