"""A site's own layout: a folder per patient with report.txt and PNGs, and labels.json beside the folders.

SOURCE/labels.json                  {"p0001": "effusion", …}: one word a patient, as two radiologists agreed
SOURCE/p0001/report.txt             FINDINGS: … IMPRESSION: …
SOURCE/p0001/pa.png, lateral.png    the films, named by their view
"""

import json
from pathlib import Path

from cxr_dist.format.image import ImageFile
from cxr_dist.shard.readers.source_paths import inside, source_folder
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Record, Source


def read(recipe: Recipe, folder: Path | None) -> Source:
    """A record per PNG; the films of a patient are one study, and share label and report."""
    root = source_folder(folder, "of this site")
    labels: dict[str, str] = json.loads(inside(root, "labels.json", "reader").read_text(encoding="utf-8"))
    records = []
    for patient in sorted(path for path in root.iterdir() if path.is_dir()):
        findings, _, impression = (
            (patient / "report.txt").read_text(encoding="utf-8").partition("IMPRESSION:")
        )
        text = {"findings": findings.replace("FINDINGS:", "").strip(), "impression": impression.strip()}
        for film in sorted(patient.glob("*.png")):
            name = f"{patient.name}/{film.name}"
            records.append(
                Record(
                    source_id=name,
                    image_id=name,
                    study=patient.name,
                    patient=patient.name,
                    view=film.stem,
                    values=(labels.get(patient.name, ""),),  # empty: no label, counted and left out
                    text=text,
                    fields={"view": film.stem},  # what the recipe's `where` may look at
                    pixels=ImageFile(path=film),
                )
            )
    return Source(
        records=records,
        text_sections=("findings", "impression"),
        labels_from="two radiologists, who saw the films and not the reports",
    )
