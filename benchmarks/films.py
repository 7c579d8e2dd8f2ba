"""Shards of synthetic images and reports, and the package's training stream over shards."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT
from cxr_dist.config.data import DataConfig
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.data.store import ShardStore
from cxr_dist.data.text import ReportTokenizer, prepare_text_folder, report_text
from cxr_dist.format.manifest import load_manifest
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

SECTIONS = ("indication", "findings")
MAX_TOKENS = 128
RECIPE = """
reader: demo
demo: {{studies: {studies}, side: {side}, seed: 0}}
labels:
  task: multiclass
  classes: {{Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}}
split: {{by: patient, train: {train}, val: {rest}, test: {rest}, seed: 0}}
image: {{short_side: {side}, quality: {quality}}}
shard: {{samples: {per_shard}}}
"""


def make_shards(
    folder: Path, studies: int, side: int, *, train: float = 0.9, quality: int = 92, per_shard: int = 64
) -> Path:
    """Write FOLDER/shards of synthetic studies; `train` is the share of the training patients."""
    fields = {"studies": studies, "side": side, "quality": quality, "per_shard": per_shard}
    text = RECIPE.format(train=train, rest=round((1 - train) / 2, 3), **fields)
    (folder / "recipe.yaml").write_text(text)
    return _write(folder / "recipe.yaml", folder, workers=2 if studies > 200 else 0)


def demo_shards(folder: Path) -> Path:
    """Write FOLDER/shards of the demo."""
    return _write(ROOT / "shards" / "demo.yaml", folder, workers=2)


def _write(recipe: Path, folder: Path, workers: int) -> Path:
    write_shards(load_recipe(recipe), None, folder / "shards", workers=workers)
    return folder / "shards"


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data that all readers of a benchmark read."""

    folder: Path
    """Where a reader writes its own copy of the data."""
    shards: Path
    sections: tuple[str, ...]
    tokenizer: ReportTokenizer
    workers: int

    def samples(self) -> Iterator[dict[str, Any]]:
        """Every training sample as {"jpg": bytes, "text": str, "label": int}."""
        return samples_of(self.shards, self.sections)

    def config(self, batch: int, size: int) -> DataConfig:
        """The package's settings for batches of one lane, with images of `size` pixels."""
        return DataConfig(
            shards=str(self.shards),
            global_batch=batch,
            micro_batch=batch,
            workers=self.workers,
            image_size=size,
            text_sections=self.sections,
        )


def samples_of(shards: Path, sections: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Every training sample as {"jpg": bytes, "text": str, "label": int}."""
    with closing(ShardStore(shards, load_manifest(shards), "train")) as store:
        for shard, entry in enumerate(store.shards):
            for number in range(entry.samples):
                sample = store.read(shard, number)
                text = report_text(json.loads(sample["json"]), sections)
                yield {"jpg": sample["jpg"], "text": text, "label": int(sample["record"]["label"][0])}


@contextmanager
def prepared(shards: Path, workers: int, sections: tuple[str, ...] = SECTIONS) -> Iterator[Data]:
    """The shards with a tokenizer that is trained on their reports."""
    with tempfile.TemporaryDirectory() as name:
        text = Path(name) / "text"
        prepare_text_folder(text, None, (sample["text"] for sample in samples_of(shards, sections)))
        tokenizer = ReportTokenizer(text, MAX_TOKENS)
        yield Data(folder=Path(name), shards=shards, sections=sections, tokenizer=tokenizer, workers=workers)


def stream(
    config: DataConfig, tokenizer: ReportTokenizer | None, *, seed: int = 0, lanes: range | None = None
) -> Iterator[Batch]:
    """The package's training stream from the first step on, of all lanes or of `lanes`."""
    manifest = load_manifest(Path(config.shards))
    return training_batches(
        config,
        manifest,
        training_plan(config, manifest, seed),
        lanes=range(config.num_lanes) if lanes is None else lanes,
        first_step=0,
        tokenizer=tokenizer,
        with_images=True,
    )
