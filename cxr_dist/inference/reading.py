"""What a trained model reads of a case: images, and sections of a report.

`reading_in` takes it from the settings in a folder, so that a case can be refused before the weights are read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_dist.config.file import TRAINED_ON, load_config
from cxr_dist.errors import UserError
from cxr_dist.inference.given_case import Case, GivenReport, NoReport, ReportOptions, SectionRules


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model reads, and how the reports of its shards were cut into sections."""

    uses_image: bool
    uses_text: bool
    views: int
    """The largest number of images per sample in training."""
    rules: SectionRules

    def check(self, case: Case) -> None:
        """Raise UserError for images or a report that the model does not read, and for those that it lacks."""
        if self.uses_image and case.image is None:
            raise UserError("this run's model reads an image, but the case has none: give a PNG, JPEG or DICOM image")
        if case.more_images and len(case.more_images) >= self.views:
            most = "one image" if self.views == 1 else f"at most {self.views} images of a study"
            raise UserError(
                f"this run's model was trained on {most}, but {1 + len(case.more_images)} were given: leave some out"
            )
        self.report_of(case)

    def check_options(self, options: ReportOptions) -> None:
        """Raise UserError for a section that the model does not read, and for what a model of its inputs cannot do."""
        if not self.uses_text and options.section is not None:
            raise UserError("this run's model reads no report: leave the section out")
        if not self.uses_image and options.no_report:
            raise UserError("this run's model reads nothing but the report: no prediction is possible without one")
        if options.section is not None:
            self.rules.check(options.section)

    def report_of(self, case: Case) -> GivenReport:
        """The sections of the case's report that the model reads; raises UserError if there should be others."""
        self.check_options(case.options)
        if not self.uses_text:
            if case.report:
                raise UserError("this run's model reads no report: leave the report out")
            return GivenReport()
        given = self.rules.of(case.report, case.options.section)
        if not given.sections and not case.options.no_report:
            anyway = ", or --no-report (in Python no_report=True) to predict from the image alone"
            raise NoReport(
                f"this run's model reads a report ({', '.join(self.rules.read)}), but the case has none: give "
                f"one{anyway if self.uses_image else ''}"
            )
        return given


def reading_in(folder: Path) -> Reading | None:
    """What the model of a run folder or an exported folder reads.

    None if its settings do not say, as those of a run of the first releases: opening the model says what is wrong.
    """
    try:
        return _of_run(folder) if (folder / "config.yaml").is_file() else _of_export(folder)
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _of_run(folder: Path) -> Reading:
    config = load_config(folder / "config.yaml")
    facts = json.loads((folder / TRAINED_ON).read_bytes())["facts"]
    text = {"sections": config.data.text_sections, "stored_sections": facts["text_sections"], **facts}
    return _reading(config.model.mode, facts["image"], text)


def _of_export(folder: Path) -> Reading:
    settings = json.loads((folder / "config.json").read_bytes())
    return _reading(settings["architecture"]["mode"], settings["stored_image"], settings["text"] or {"sections": ()})


def _reading(mode: str, image: Mapping[str, Any], text: Mapping[str, Any]) -> Reading:
    rules = SectionRules(
        read=tuple(text["sections"]),
        stored=tuple(text.get("stored_sections", ())),
        reader=text.get("reader", ""),
        redact=tuple(text.get("redact", ())),
    )
    return Reading(uses_image=mode != "text", uses_text=mode != "image", views=image.get("views") or 1, rules=rules)
