"""Training samples per second of one core: ours, stock webdataset with torchvision transforms, and decoding alone.

    python -m benchmarks.loader [--samples 1000] [--repeats 5] [--side 256]

Made films of the given short side are sharded into a temporary folder. All readers see the same tars, with the
report tokenized by the same tokenizer to the same length limit, batches of 16, output 224×224, training augmentation.
They take turns, and the medians and their spread over the repeats go into benchmarks/results/loader-SIDE.json.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import webdataset
from torchvision.transforms import v2

from benchmarks.hardware import describe_machine
from cxr_dist.config import DataConfig
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.data.store import ShardStore
from cxr_dist.data.text import ReportTokenizer, prepare_text_folder, report_text
from cxr_dist.shard.manifest import Manifest, load_manifest
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

SECTIONS = ("indication", "findings")
BATCH, SIZE, MAX_TOKENS = 16, 224, 128
RECIPE = """
reader: demo
demo: {{studies: {studies}, side: {side}, seed: 0}}
labels:
  task: multiclass
  classes: {{Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}}
split: {{by: patient, train: 0.9, val: 0.05, test: 0.05, seed: 0}}
image: {{short_side: {side}, quality: 92}}
shard: {{samples: 256}}
"""

Reader = Callable[[int], None]


def make_shards(folder: Path, samples: int, side: int) -> Path:
    """Made films and reports, at least `samples` of them in the training split."""
    (folder / "recipe.yaml").write_text(RECIPE.format(studies=samples, side=side))
    write_shards(load_recipe(folder / "recipe.yaml"), None, folder / "shards", workers=2)
    return folder / "shards"


def ours(shards: Path, manifest: Manifest, tokenizer: ReportTokenizer) -> Reader:
    """The package's training stream, in this process."""
    config = DataConfig(
        shards=str(shards),
        global_batch=BATCH,
        micro_batch=BATCH,
        workers=0,
        image_size=SIZE,
        text_sections=SECTIONS,
    )
    plan = training_plan(config, manifest, seed=0)

    def read(samples: int) -> None:
        stream = training_batches(
            config, manifest, plan, lanes=range(1), first_step=0, tokenizer=tokenizer, with_images=True
        )
        for _ in range(samples // BATCH):
            next(stream)

    return read


def stock(shards: Path, tokenizer: ReportTokenizer) -> Reader:
    """webdataset's usual pipeline: shuffle, PIL decoding, torchvision v2 transforms per sample, three channels."""
    augment = v2.Compose(
        [
            v2.RandomAffine(degrees=7, translate=(0.05, 0.05), scale=(0.9, 1.1)),
            v2.Resize(SIZE),
            v2.CenterCrop(SIZE),
            v2.ColorJitter(brightness=0.1, contrast=0.1),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def sample(raw: dict[str, bytes]) -> tuple[torch.Tensor, str, int]:
        from PIL import Image

        plain = json.loads(raw["json"])
        return (
            augment(Image.open(io.BytesIO(raw["jpg"])).convert("RGB")),
            report_text(plain, SECTIONS),
            plain["label"],
        )

    def collate(samples: list[tuple[torch.Tensor, str, int]]) -> object:
        images, reports, labels = zip(*samples, strict=True)
        return torch.stack(images), tokenizer(list(reports)), torch.tensor(labels)

    urls = sorted(str(path) for path in shards.glob("train-*.tar"))

    def read(samples: int) -> None:
        source = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(256).map(sample)
        loader = webdataset.WebLoader(
            source.batched(BATCH, collation_fn=collate), batch_size=None, num_workers=0
        )
        batches = iter(loader)
        for _ in range(samples // BATCH):
            next(batches)

    return read


def decoding_alone(shards: Path, manifest: Manifest) -> Reader:
    """The same JPEGs from memory to grey pixels, and nothing else: the ceiling."""
    store = ShardStore(shards, manifest, "train")
    films = [store.read(s, i)["jpg"] for s, entry in enumerate(store.shards) for i in range(entry.samples)]

    def read(samples: int) -> None:
        for film in films[:samples]:
            cv2.imdecode(np.frombuffer(film, np.uint8), cv2.IMREAD_GRAYSCALE)

    return read


def main() -> None:
    """Take turns, print a table, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=960)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        shards = make_shards(Path(name), options.samples, options.side)
        manifest = load_manifest(shards)
        samples = min(options.samples, manifest.split("train").samples // BATCH * BATCH)
        store = ShardStore(shards, manifest, "train")
        texts = [
            report_text(json.loads(store.read(0, i)["json"]), SECTIONS)
            for i in range(store.shards[0].samples)
        ]
        prepare_text_folder(Path(name) / "text", None, iter(texts))
        tokenizer = ReportTokenizer(Path(name) / "text", MAX_TOKENS)
        readers = {
            "cxr_dist": ours(shards, manifest, tokenizer),
            "webdataset + torchvision v2": stock(shards, tokenizer),
            "decoding alone (grey)": decoding_alone(shards, manifest),
        }
        rates: dict[str, list[float]] = {reader: [] for reader in readers}
        for _ in range(options.repeats):
            for reader, read in readers.items():
                start = time.perf_counter()
                read(samples)
                rates[reader].append(samples / (time.perf_counter() - start))
    report(rates, samples, options.side)


def report(rates: dict[str, list[float]], samples: int, side: int) -> None:
    """Print the table and write benchmarks/results/loader-SIDE.json."""
    medians = {reader: statistics.median(values) for reader, values in rates.items()}
    print(
        f"{samples} films, {side} px, one core: samples/s, median (lowest to highest), and ours as a multiple"
    )
    for reader, values in rates.items():
        multiple = medians["cxr_dist"] / medians[reader]
        print(
            f"  {reader:<30}{medians[reader]:8.0f}  ({min(values):.0f} to {max(values):.0f})   {multiple:.2f}"
        )
    result = {
        "what": "training samples per second, one core",
        "side": side,
        "samples": samples,
        "rates": rates,
        "medians": medians,
        "machine": describe_machine(),
    }
    path = Path(__file__).parent / "results" / f"loader-{side}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
