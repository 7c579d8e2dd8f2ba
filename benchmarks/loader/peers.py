"""Other libraries that read the same images and reports for training, used as their documentation shows.

Each function takes the benchmark's data and returns a reader, which makes the batches of a number of samples. All
augment every sample with torchvision v2 on three channels and tokenize every batch; the original pads to 128 tokens.
MosaicML streaming and litdata are optional; they pin older releases of other packages, so install them with --no-deps.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.films import MAX_TOKENS, Data
from cxr_dist.data.text import ReportTokenizer, report_text

BATCH, SIZE = 16, 224
Reader = Callable[[int], None]


class Usual:
    """The usual transform and collation, as an object that can be sent to worker processes."""

    def __init__(self, tokenizer: ReportTokenizer) -> None:
        self.tokenizer = tokenizer
        self.augment = v2.Compose(
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

    def __call__(self, jpg: bytes, text: str, label: int) -> tuple[torch.Tensor, str, int]:
        """Transform one sample."""
        return self.augment(Image.open(io.BytesIO(jpg)).convert("RGB")), text, label

    def collate(self, samples: Sequence[tuple[torch.Tensor, str, int]]) -> object:
        """Collate one batch."""
        images, reports, labels = zip(*samples, strict=True)
        return torch.stack(images), self.tokenizer(list(reports)), torch.tensor(labels)


def drained(batches: Callable[[], Iterator[object]]) -> Reader:
    """A reader that continues a stream of batches where it stopped, and restarts it at its end."""

    def for_ever() -> Iterator[object]:
        while True:
            yield from batches()

    stream = for_ever()

    def read(samples: int) -> None:
        for _ in range(samples // BATCH):
            next(stream)

    return read


def stock_webdataset(data: Data) -> Reader:
    """The usual pipeline of webdataset: shards in random order, a shuffle buffer, and a map over samples."""
    usual = Usual(data.tokenizer)
    urls = sorted(str(path) for path in data.shards.glob("train-*.tar"))

    def sample(raw: dict[str, bytes]) -> tuple[torch.Tensor, str, int]:
        plain = json.loads(raw["json"])
        return usual(raw["jpg"], report_text(plain, data.sections), 0)

    def batches() -> Iterator[object]:
        source = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0, empty_check=False)
        batched = source.shuffle(256).map(sample).batched(BATCH, collation_fn=usual.collate)
        return iter(webdataset.WebLoader(batched, batch_size=None, num_workers=data.workers))

    return drained(batches)


class OriginalDataset(Dataset[dict[str, torch.Tensor]]):
    """The data set of the original notebook: full-size PNGs, PIL transforms, and reports padded to 128 tokens."""

    def __init__(self, pngs: Path, texts: Sequence[str], text_folder: Path) -> None:
        from transformers import AutoTokenizer

        self.pngs, self.texts = sorted(pngs.glob("*.png")), texts
        self.tokenizer = AutoTokenizer.from_pretrained(str(text_folder), local_files_only=True)
        self.augment = v2.Compose(
            [
                v2.Resize((256, 256)),
                v2.RandomCrop(SIZE),
                v2.RandomHorizontalFlip(),
                v2.RandomRotation(7),
                v2.ColorJitter(brightness=0.1, contrast=0.1),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.pngs)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        with Image.open(self.pngs[number]) as png:
            image = self.augment(png.convert("RGB"))
        options = {"padding": "max_length", "truncation": True, "max_length": MAX_TOKENS}
        tokens = self.tokenizer(self.texts[number % len(self.texts)], return_tensors="pt", **options)
        return {"image": image} | {name: tokens[name][0] for name in ("input_ids", "attention_mask")}


def original_dataset(data: Data, full_side: int, films: int) -> OriginalDataset:
    """`films` images as PNGs of `full_side` pixels with their reports, as the original notebook read them."""
    pngs = data.folder / "png"
    pngs.mkdir()
    texts = []
    for number, sample in zip(range(films), data.samples(), strict=False):
        small = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_GRAYSCALE)
        large = cv2.resize(small, (full_side, full_side), interpolation=cv2.INTER_CUBIC)
        grain = np.random.default_rng(number).normal(
            0, 2, large.shape
        )  # noise like that of a real image, which makes the PNG realistically large
        cv2.imwrite(str(pngs / f"{number:04d}.png"), np.clip(large + grain, 0, 255).astype(np.uint8))
        texts.append(sample["text"])
    return OriginalDataset(pngs, texts, data.folder / "text")


def original(data: Data, full_side: int, films: int = 48) -> Reader:
    """The loader of the original notebook; it reads a few images again and again."""
    dataset = original_dataset(data, full_side, films)

    return drained(lambda: iter(DataLoader(dataset, BATCH, shuffle=True, num_workers=data.workers)))


def mosaicml_streaming(data: Data) -> Reader:
    """MosaicML streaming with MDS shards on the local disk and its own shuffle."""
    from streaming import MDSWriter, StreamingDataset

    out, usual = str(data.folder / "mds"), Usual(data.tokenizer)
    columns = {"jpg": "bytes", "text": "str", "label": "int"}
    with MDSWriter(out=out, columns=columns, size_limit="8mb") as writer:
        for sample in data.samples():
            writer.write(sample)

    options = {"num_workers": data.workers, "collate_fn": usual.collate}
    kind = _transformed(StreamingDataset, usual)
    dataset = kind(local=out, shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
    return drained(lambda: iter(DataLoader(dataset, BATCH, **options)))


def litdata(data: Data) -> Reader:
    """litdata with optimized chunks on the local disk and its own shuffle."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    out, usual = data.folder / "litdata", Usual(data.tokenizer)
    writer = BinaryWriter(str(out), chunk_bytes=8_000_000)
    for number, sample in enumerate(data.samples()):
        writer[number] = sample
    writer.done()
    writer.merge()

    options = {"batch_size": BATCH, "num_workers": data.workers, "collate_fn": usual.collate}
    dataset = _transformed(StreamingDataset, usual)(str(out), shuffle=True)
    return drained(lambda: iter(StreamingDataLoader(dataset, **options)))


def _transformed(dataset: type, usual: Usual) -> type:
    """A subclass of a library's data set that applies the usual transform to each sample."""

    class Images(dataset):  # type: ignore[misc,valid-type]
        def __getitem__(self, number: int) -> tuple[torch.Tensor, str, int]:
            return usual(**super().__getitem__(number))

    return Images
