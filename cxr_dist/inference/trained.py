"""A trained model with cases from outside the shards as its batches. `loaded.py` has what users call."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cxr_dist.data.augment import Augmentation
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import collate
from cxr_dist.data.read import SampleDict, decode_sample
from cxr_dist.data.text import ReportTokenizer, report_text
from cxr_dist.evaluate.answer import Answers, answers
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.passes import embeddings, predict_passes
from cxr_dist.evaluate.word_scores import WordScores, word_scores
from cxr_dist.format.image import encode_jpeg
from cxr_dist.format.manifest import index_dtype
from cxr_dist.format.stored_sample import image_name
from cxr_dist.inference.description import Description
from cxr_dist.inference.given_case import Case, GivenReport, SectionRules
from cxr_dist.inference.given_image import GivenImage, grey_pixels
from cxr_dist.inference.reading import Reading
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.encoder_kind import GreyLevels
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.run.trained_on import TrainedOn

if TYPE_CHECKING:
    from cxr_dist.inference.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class TrainedModel(Description):
    """The best checkpoint of a run, in eval mode, with its settings and its tokenizer."""

    classifier: Classifier
    tokenizer: ReportTokenizer | None
    """None for a model that reads no report."""
    device: torch.device
    trained_on: TrainedOn | None = None
    """What a run folder says about its training shards; None for an exported folder."""
    pretrained: "Pretrained | None" = None
    """Of a run of contrastive pretraining: what the classifier was made of; else None."""

    @property
    def levels(self) -> GreyLevels:
        """How the images of the image encoder are normalised."""
        return self.classifier.levels

    @property
    def reading(self) -> Reading:
        """What the model reads of a case."""
        model, read, stored = self.config.model, self.config.data.text_sections, self.stored_sections
        rules = SectionRules(read=read, stored=stored, reader=self.reader, redact=self.redact)
        return Reading(uses_image=model.uses_image, uses_text=model.uses_text, views=self.views, rules=rules)

    def answers(self, batch: Batch, mc: McDropout) -> Answers:
        """The model's predictions for every case of a batch."""
        passes = predict_passes(self.classifier, batch, self.config, self.task, mc, self.device)
        return answers(*passes, self.task, self.classes, self.calibrator, self.thresholds, self.sets)

    def answers_alone(self, batch: Batch, mc: McDropout) -> Answers:
        """As `answers`, with the same dropout masks for all cases, so that no prediction depends on other cases."""
        return self.answers(dataclasses.replace(batch, sample_ids=torch.zeros_like(batch.sample_ids)), mc)

    def embeddings(self, batch: Batch) -> Floats:
        """The vectors [b, width] that summarise the cases of a batch for the classification head."""
        return embeddings(self.classifier, batch, self.config, self.device)

    def batch(self, cases: Sequence[Case]) -> Batch:
        """The cases as one batch, by the stages that a stored sample passes; ids count from 0. Raises UserError."""
        return self.batch_of([self.sample(case, number) for number, case in enumerate(cases)])

    def batch_of(self, samples: Sequence[SampleDict]) -> Batch:
        """One batch of the results of `sample`; changes `samples`."""
        size = self.config.data.image_size if self.config.model.uses_image else None
        for sample in samples:
            decode_sample(sample, self.image["short_side"], size)
        to_batch = collate(size, Augmentation(), self.tokenizer, self.config.data.text_sections, self.views)
        batch: Batch = next(iter(to_batch(iter([list(samples)]))))
        return batch

    def sample(self, case: Case, number: int = 0) -> SampleDict:
        """A case as a stored sample whose id is `number`, with its images read and compressed; raises UserError.

        This is the slow part of `batch`; it is safe to call from several threads.
        """
        self.reading.check(case)
        sections = dict(self.reading.report_of(case).sections)
        sample: SampleDict = {
            "__key__": f"case {number}",
            "__url__": "--image",
            "sample_id": number,
            "record": np.zeros((), index_dtype(1 if self.task == "multiclass" else len(self.classes))),
            "json": json.dumps({"text": sections}),
        }
        if self.config.model.uses_image and case.image is not None:
            for view, path in enumerate((case.image, *case.more_images)):
                sample[image_name(view)] = self._stored_form(path)
        return sample

    def report_facts(self, case: Case) -> tuple[dict[str, Any] | None, list[str]]:
        """What was read of the case's report, and warnings about it; (None, []) for a model that reads none."""
        if self.tokenizer is None:
            return None, []
        given = self.reading.report_of(case)
        share = self.tokenizer.unknown_share(self.text_of(given))
        return given.facts(share), given.warnings(share)

    def word_scores(self, case: Case, inputs: Inputs, class_index: int) -> WordScores | None:
        """The words of the case's report with their scores for a class; None for a model that gives none."""
        if self.tokenizer is None:
            return None
        return word_scores(
            self.classifier, self.tokenizer, self.text_of(self.reading.report_of(case)), inputs, class_index
        )

    def text_of(self, report: GivenReport) -> str:
        """The text that the model reads, joined as in training."""
        return report_text({"text": report.sections}, self.config.data.text_sections)

    def _stored_form(self, image: GivenImage) -> bytes:
        """The image as sharding would have stored it: resized, greyscale and compressed."""
        return encode_jpeg(grey_pixels(image, self.image["short_side"]), self.image["quality"])
