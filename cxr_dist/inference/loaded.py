"""The model that `cxr_dist.load` returns, and that a run folder or an exported folder is opened as."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.passes import inputs_of
from cxr_dist.inference.given_case import Case, Report, ReportOptions
from cxr_dist.inference.given_image import GivenImage
from cxr_dist.inference.trained import TrainedModel
from cxr_dist.model.monte_carlo import McDropout, McScope

if TYPE_CHECKING:
    import pandas as pd

_MOST_SHOWN = 8  # classes in the text that Python shows for a model


@dataclass(frozen=True, kw_only=True, repr=False)
class LoadedModel(TrainedModel):
    """A trained model that predicts from images and reports."""

    def predict(
        self,
        image: GivenImage | Sequence[GivenImage] | None = None,
        report: Report = "",
        *,
        section: str | None = None,
        no_report: bool = False,
        mc_samples: int = 0,
        mc_scope: McScope = "head",
        heat_map: bool = False,
        words: bool = False,
        embedding: bool = False,
    ) -> dict[str, Any]:
        """Predict one case.

            model = cxr_dist.load("MODEL")
            answer = model.predict("image.png", report="FINDINGS: …", mc_samples=30)
            answer["headline"]["values"]

        Args:
            image: A PNG, JPEG or DICOM file as a path or its bytes, a Pillow image, or an array [height, width] or
                [height, width, 3] of uint8 (0 to 255), uint16 (scaled from its smallest and largest value) or floating
                point (0 to 1); 0 is black. None for a model that reads no image. A model that was trained on studies
                takes a list of images of one study, in any order.
            report: The report's text with its headings, at which it is cut into sections, or a dictionary from section
                to text. The model reads the sections that it was trained on.
            section: The section that a text without headings is, such as `findings`. It may be left out if the model
                reads one section only.
            no_report: Predict from the image alone if a model that reads both is given no report.
            mc_samples: Number of Monte-Carlo dropout passes, which give the intervals; 0 for none.
            mc_scope: Where dropout acts in these passes, as in `cxr-dist evaluate`.
            heat_map: Also return `heat_map`, a Grad-CAM map [h, w] over the image, 0 to 1, for `explained_class`, the
                class of the largest headline value; None for a model without one. Images of a study lie side by side.
            words: Also return `words`: the words of the report with their `attention` and `gradient_times_input` for
                `explained_class`; None for a model without them.
            embedding: Also return `embedding`, the vector [width] that summarises the case for the last layers.

        Returns:
            `headline` is the number to show: its `kind` (calibrated probability, or probability without a calibration),
            the `values` by class, the `predicted` classes by its `rule` and `thresholds`, and, if the run was
            evaluated, the `prediction_set` with its `level` and what it `holds`: classes, or for each label `present`,
            `absent`, both or neither. For each further quantity there is a dictionary from class name to value:
            `probability` of the deterministic pass; `calibrated`, the same as calibrated on validation, if there is a
            calibration; with `mc_samples` also `mc_mean`, `mc_deviation`, and `mc_low` and `mc_high`, the bounds of the
            central 95% of the passes, which are calibrated like the headline. Entropies are single values, in nats.
            `report` names the sections that were read and left out, and `warnings` says why the prediction may not be
            what you expect.

        Raises UserError for an image that cannot be used, for an image or report that the model does not read, and for
        a report that is missing or whose section is not known.
        """
        images: list[GivenImage]
        images = [] if image is None else [*image] if isinstance(image, list | tuple) else [cast(GivenImage, image)]
        case = Case.of(images, report, ReportOptions(section=section, no_report=no_report))
        batch = self.batch([case])
        result = self.answers(batch, McDropout(passes=mc_samples, scope=mc_scope))
        facts, warnings = self.report_facts(case)
        answer = result.to_dict(0) | {"report": facts, "warnings": warnings}
        if embedding:
            answer["embedding"] = self.embeddings(batch)[0]
        if heat_map or words:
            chosen = int(result.headline[0].argmax())
            inputs = inputs_of(self.classifier, batch.to(self.device))
            answer["explained_class"] = self.classes[chosen]
            if heat_map:
                answer["heat_map"] = None if inputs.images is None else grad_cam(self.classifier, inputs, chosen)
            if words:
                scores = self.word_scores(case, inputs, chosen)
                answer["words"] = None if scores is None else scores.to_dict()["words"]
        return answer

    def predict_many(
        self,
        frame: "pd.DataFrame",
        *,
        section: str | None = None,
        no_report: bool = False,
        mc_samples: int = 0,
        mc_scope: McScope = "head",
        batch_size: int = 32,
    ) -> "pd.DataFrame":
        """Predict a case for each row of a frame, independently of the other rows.

            table = pd.DataFrame({"image": ["a.png", "b.png"], "report": ["FINDINGS: …", "FINDINGS: …"]})
            cxr_dist.load("MODEL").predict_many(table)

        Args:
            frame: The column `image` has what `predict` takes as an image. The report is in the column `report`, or in
                columns that have the names of sections. Other columns are ignored.
            section, no_report, mc_samples, mc_scope: As in `predict`.
            batch_size: Number of images per forward pass.

        Returns:
            A frame with the index of `frame` and the columns of `cxr-dist predict --input`: the `predicted` class, or
            `predicted:CLASS` for a multilabel model; `headline:CLASS`, `probability:CLASS`, and so on for each further
            quantity of `predict`. A row that cannot be predicted has the reason in `error`, and no values.

        Raises UserError if a column that the model reads is missing.
        """
        from cxr_dist.inference.frame import predict_frame  # only a frame needs the modules that read many cases

        options, mc = ReportOptions(section=section, no_report=no_report), McDropout(passes=mc_samples, scope=mc_scope)
        return predict_frame(self, frame, options, mc, batch_size)

    def __repr__(self) -> str:
        """A few lines, where the dataclass would print every layer of the network."""
        reads = {"image": "images", "text": "reports", "fused": "images and reports"}[self.config.model.mode]
        names = ", ".join(self.classes[:_MOST_SHOWN]) + (", …" if len(self.classes) > _MOST_SHOWN else "")
        parameters = sum(parameter.numel() for parameter in self.classifier.parameters())
        return (
            f"TrainedModel of run {self.config.run!r} at step {self.step}, reads {reads}, on {self.device}\n"
            f"  {self.task}, {len(self.classes)} classes: {names}\n"
            f"  {parameters:,} parameters, {self.config.data.image_size} × {self.config.data.image_size} pixels"
        )
