"""A reader for the layout of one site: a folder per patient with report.txt and PNGs, and one labels.json.

SOURCE/labels.json                  {"p0001": "effusion", …}: one word per patient, on which two radiologists agreed
SOURCE/p0001/report.txt             FINDINGS: … IMPRESSION: …
SOURCE/p0001/pa.png, lateral.png    the images, named by their view
"""

import json
from pathlib import Path

from cxr_dist.format.image import ImageFile
from cxr_dist.shard.readers.source_paths import inside, source_folder
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Record, Source


def read(recipe: Recipe, folder: Path | None) -> Source:
    """One record per PNG; the images of a patient form one study and share its label and report."""
    root = source_folder(folder, "of this site")
    labels: dict[str, str] = json.loads(inside(root, "labels.json", "reader").read_text(encoding="utf-8"))
    records = []
    for patient in sorted(path for path in root.iterdir() if path.is_dir()):
        findings, _, impression = (patient / "report.txt").read_text(encoding="utf-8").partition("IMPRESSION:")
        text = {"findings": findings.replace("FINDINGS:", "").strip(), "impression": impression.strip()}
        for image in sorted(patient.glob("*.png")):
            name = f"{patient.name}/{image.name}"
            records.append(
                Record(
                    source_id=name,
                    image_id=name,
                    study=patient.name,
                    patient=patient.name,
                    view=image.stem,
                    values=(labels.get(patient.name, ""),),  # without a label the record is counted and left out
                    text=text,
                    fields={"view": image.stem},  # fields that the recipe's `where` can select by
                    pixels=ImageFile(path=image),
                )
            )
    return Source(
        records=records,
        text_sections=("findings", "impression"),
        labels_from="two radiologists, who saw the images and not the reports",
    )
