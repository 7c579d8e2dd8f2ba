"""Write a small MIMIC-CXR-JPG in the published layout."""

import csv
import gzip
import zipfile
from pathlib import Path

import cv2
import numpy as np

CLASSES = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
VIEWS = ("PA", "LATERAL")
PROCEDURE = "CHEST (PA AND LAT)"
PARTS = {14: "validate", 15: "validate", 16: "test", 17: "test"}
"""Patient -> name in the official split; all other patients are in train."""


def make_mimic(root: Path, patients: int = 20) -> Path:
    """Write `patients` with two studies each, of a PA and a lateral image.

    In study 0 of patient i, class i of 14 is present, the next class is uncertain and the one after that is absent;
    study 1 has no finding. The first study of patient 1 has no report.
    """
    metadata, labels, splits = [], [], []
    for number in range(patients):
        patient = str(10000032 + number)
        part = PARTS.get(number, "train")
        for order in range(2):
            study = str(50414267 + 2 * number + order)
            values = [""] * len(CLASSES)
            present = number % len(CLASSES) if order == 0 else CLASSES.index("No Finding")
            for shift, value in enumerate(("1.0", "-1.0", "0.0")[: 3 if order == 0 else 1]):
                values[(present + shift) % len(CLASSES)] = value
            labels.append([patient, study, *values])
            if (number, order) != (1, 0):
                _write(root / "mimic-cxr-reports" / "files" / _study(patient, study, ".txt"), _report(number))
            for view in VIEWS:
                dicom = f"{number:08x}-{order:08x}-{VIEWS.index(view):08x}-00000000-00000000"
                size_and_time = ["24", "32", "21800506", "21.5"]
                metadata.append([dicom, patient, study, PROCEDURE, view, *size_and_time, PROCEDURE, "", ""])
                splits.append([dicom, study, patient, part])
                pixels = np.random.default_rng(len(metadata)).integers(0, 256, (24, 32), dtype=np.uint8)
                image = root / "files" / _study(patient, study, "") / f"{dicom}.jpg"
                _write(image, bytes(cv2.imencode(".jpg", pixels)[1]))
    write_table(root, "metadata", METADATA, metadata)
    write_table(root, "chexpert", ("subject_id", "study_id", *CLASSES), labels)
    write_table(root, "negbio", ("subject_id", "study_id", *CLASSES), labels[:-1])
    write_table(root, "split", ("dicom_id", "study_id", "subject_id", "split"), splits)
    zip_reports(root)
    return root


def write_table(root: Path, kind: str, header: tuple[str, ...], rows: list[list[str]]) -> None:
    """Write mimic-cxr-2.0.0-KIND.csv.gz."""
    with gzip.open(root / f"mimic-cxr-2.0.0-{kind}.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read_table(root: Path, kind: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Read the header and the rows of mimic-cxr-2.0.0-KIND.csv.gz."""
    with gzip.open(root / f"mimic-cxr-2.0.0-{kind}.csv.gz", "rt", newline="") as file:
        header, *rows = csv.reader(file)
    return tuple(header), rows


def zip_reports(root: Path) -> None:
    """Pack the folder mimic-cxr-reports into mimic-cxr-reports.zip."""
    folder = root / "mimic-cxr-reports"
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
        for path in sorted(folder.rglob("*.txt")):
            archive.write(path, path.relative_to(folder))


def _study(patient: str, study: str, ending: str) -> str:
    return f"p{patient[:2]}/p{patient}/s{study}{ending}"


def _report(number: int) -> bytes:
    return (
        f" FINAL REPORT\n EXAM: Chest.\n \n REASON FOR EXAM: Cough {number}.\n \n FINDINGS: Seen.\n IMPRESSION: Said.\n"
    ).encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
