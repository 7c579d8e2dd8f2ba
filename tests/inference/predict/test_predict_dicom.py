"""`cxr-dist predict` and a loaded model read a DICOM file as the same image in a PNG."""

import csv
import json

import cv2
import numpy as np
from made_dicom import as_dicom

from cxr_dist.inference.given_image import grey_pixels

GREY = np.random.default_rng(0).integers(0, 256, (70, 80), dtype=np.uint8)


def test_one_dicom_file_gives_the_prediction_of_its_png(cxr_dist, run_of, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), GREY)
    (tmp_path / "b.dcm").write_bytes(as_dicom(GREY, negative=True))
    answers = []
    for name in ("a.png", "b.dcm"):
        out = tmp_path / f"{name}.out.png"
        status, _, err = cxr_dist("predict", run_of("image"), "--image", tmp_path / name, "--out", out)
        assert (status, err) == (0, "")
        answers.append(json.loads(out.with_suffix(".json").read_text())["probability"])
    assert answers[0] == answers[1]


def test_a_folder_of_dicom_files_is_predicted_and_a_bad_one_is_named_by_its_reason(cxr_dist, run_of, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(as_dicom(GREY))
    (folder / "b.dcm").write_bytes(as_dicom(GREY, Modality="CT"))
    status, _, _ = cxr_dist("predict", run_of("image"), "--input", folder, "--out", tmp_path / "out", "--batch", 2)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open(newline="")))
    assert [bool(row["error"]) for row in rows] == [False, True]
    assert "DICOM file of another modality than CR, DX or RG" in rows[1]["error"]
    assert status == 1  # as for every input of which some case could not be predicted


def test_paths_and_bytes_of_a_dicom_file_are_images_in_python(tmp_path):
    (tmp_path / "a.dcm").write_bytes(as_dicom(GREY, negative=True))
    for given in (tmp_path / "a.dcm", (tmp_path / "a.dcm").read_bytes()):
        assert np.array_equal(grey_pixels(given, 4096), GREY)
