"""Trials of hostile and faulty shards with stock webdataset and with this package.

A trial returns one text for each; its first word is `silent`, `noticed`, `executed`, `leaked` or `harmless`.
"""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import webdataset

from benchmarks.faults.damages import Samples, first_tar, read_ours, read_stock
from benchmarks.faults.forge import forge_entry, forge_index, forge_sample, member, members_of_sample
from benchmarks.films import stream
from cxr_dist.config.data import DataConfig
from cxr_dist.data.loader import training_plan
from cxr_dist.errors import UserError
from cxr_dist.files import whole_file
from cxr_dist.format.manifest import load_manifest
from cxr_dist.shard.verify import verify


def _refusal(shards: Path) -> str:
    """The first problem that reading or verifying reports; `silent` if there is none."""
    try:
        read_ours(shards)
        problems = verify(shards, near_duplicates=False)
    except UserError as error:
        problems = [str(error)]
    return f"noticed: {problems[0]}" if problems else "silent"


def _stock_pipeline(source: list[str], canary: Path, decoder: str | None = None) -> str:
    stock = webdataset.WebDataset(source, shardshuffle=False, nodesplitter=None, empty_check=False)
    try:
        samples = list(stock.decode(decoder) if decoder else stock.decode())
    except Exception as error:
        return "executed" if canary.exists() else f"noticed: {type(error).__name__}"
    return "executed" if canary.exists() else f"silent: {len(samples)} samples"


def dotted_key(shards: Path, folder: Path) -> tuple[str, str]:
    """Twenty images whose keys are DICOM UIDs."""
    with webdataset.TarWriter(str(folder / "dots.tar")) as writer:
        for number in range(20):
            writer.write({"__key__": f"1.2.840.{number}", "jpg": b"x"})
    try:
        samples = webdataset.WebDataset(str(folder / "dots.tar"), shardshuffle=False, empty_check=False)
        stock = f"silent: {len(list(samples))} of 20 samples"
    except Exception as error:
        stock = f"noticed: {type(error).__name__}"

    def rename(index: object) -> None:
        index["key"][0] = b"1.2.840.1"  # type: ignore[index]

    forge_index(shards, rename)
    return stock, _refusal(shards)


def failed_writing(shards: Path, folder: Path) -> tuple[str, str]:
    """An error while a shard is written."""
    with (
        contextlib.suppress(RuntimeError),
        webdataset.ShardWriter(str(folder / "%d.tar"), verbose=0) as writer,
    ):
        for sample in _failing({"__key__": "film", "jpg": b"x"}):
            writer.write(sample)
    left = len(list(webdataset.WebDataset(str(folder / "0.tar"), shardshuffle=False)))
    with contextlib.suppress(RuntimeError), whole_file(folder / "ours.tar") as file:
        for _ in _failing({}):
            file.write(member("film.jpg", b"x"))
    ours = "silent" if (folder / "ours.tar").exists() else "noticed: no file at the final name"
    return f"silent: a valid tar of {left} samples at the final name", ours


def _failing(sample: dict[str, object]) -> Iterator[dict[str, object]]:
    yield sample
    raise RuntimeError


def pickled_member(shards: Path, folder: Path) -> tuple[str, str]:
    """A pickle among the members of the shard."""
    canary = folder / "canary"
    # A hand-written pickle, protocol 0: io.open(canary, "w").
    code = f"cio\nopen\n(V{canary}\nVw\ntR.".encode()
    tar = member("film.pyd", code) + first_tar(shards).read_bytes()
    (folder / "pickle.tar").write_bytes(tar)
    stock = _stock_pipeline([str(folder / "pickle.tar")], canary)
    canary.unlink(missing_ok=True)
    first_tar(shards).write_bytes(tar)
    ours = _refusal(shards)
    return stock, "executed" if canary.exists() else ours


def command_name(shards: Path, folder: Path) -> tuple[str, str]:
    """A shard whose name is a shell command."""
    canary = folder / "canary"
    stock = _stock_pipeline([f"pipe:touch {canary}"], canary)
    canary.unlink(missing_ok=True)
    forge_entry(shards, file=f"pipe:touch {canary}")
    ours = _refusal(shards)
    return stock, "executed" if canary.exists() else ours


def film_of_169_megapixels(shards: Path, folder: Path) -> tuple[str, str]:
    """A stored image of 13,000 × 13,000 pixels in a small file."""
    film = cv2.imencode(".jpg", np.zeros((13_000, 13_000), np.uint8))[1].tobytes()
    forge_sample(shards, 0, jpg=film)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = _stock_pipeline([str(first_tar(shards))], folder / "canary", "pill")
    return stock, _refusal(shards)


def _parsed(sample: dict[str, bytes]) -> object:
    return json.loads(sample["json"].decode("utf-8"))


def report_in_the_message(shards: Path, folder: Path) -> tuple[str, str]:
    """A report in another encoding than UTF-8."""
    report = members_of_sample(shards, 0, "json").replace(b'"findings": "', b'"findings": "SECRET \xff')
    forge_sample(shards, 0, json=report)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        stock = webdataset.WebDataset([str(first_tar(shards))], shardshuffle=False, empty_check=False)
        list(stock.map(_parsed, handler=webdataset.warn_and_continue))
        said = "".join(str(warning.message) for warning in shown)
    ours = _refusal(shards)
    return ("leaked: the report" if "SECRET" in said else "noticed"), ("leaked" if "SECRET" in ours else ours)


def sample_left_out_on_one_rank(shards: Path, folder: Path) -> tuple[str, str]:
    """The number of samples that each of two ranks gets in an epoch if one image is damaged."""
    data = bytearray(first_tar(shards).read_bytes())
    data[:512] = b"\xff" * 512
    first_tar(shards).write_bytes(data)
    stock = [len(_of_rank(shards, rank)) for rank in range(2)]
    config = DataConfig(shards=str(shards), global_batch=4, micro_batch=2, image_size=64, workers=0, max_bad_samples=1)
    steps, ours = training_plan(config, load_manifest(shards), 0).steps_per_epoch, []
    for rank in range(2):
        batches = list(islice(stream(config, None, lanes=range(rank, 2, 2)), steps))
        ours.append((sum(map(len, batches)), sum(len(batch.replaced) for batch in batches)))
    replaced = sum(count for _, count in ours)
    same = ours[0][0] == ours[1][0]
    return (
        f"{'harmless' if stock[0] == stock[1] else 'silent'}: {stock[0]} and {stock[1]} samples",
        f"{'noticed' if same and replaced else 'silent'}: {ours[0][0]} and {ours[1][0]} samples, {replaced} replaced",
    )


def _of_rank(shards: Path, rank: int) -> Samples:
    """The samples that one of two ranks reads; the first two shards, of equal size, are dealt to the ranks."""
    alone = shards.parent / f"rank{rank}"
    alone.mkdir()
    shutil.copy(shards / f"train-{rank:05d}.tar", alone)
    return read_stock(alone, webdataset.warn_and_continue)


TRIALS: dict[str, Callable[[Path, Path], tuple[str, str]]] = {
    "a key with dots": dotted_key,
    "an error while a shard is written": failed_writing,
    "a pickle among the members": pickled_member,
    "a shell command for a name": command_name,
    "a film of 169 megapixels": film_of_169_megapixels,
    "a report that is not UTF-8": report_in_the_message,
    "a damaged film on one of two ranks": sample_left_out_on_one_rank,
}


def measure_trials(whole: Path, folder: Path) -> dict[str, dict[str, str]]:
    """The outcome of every trial on both sides."""
    rows = {}
    for number, (name, trial) in enumerate(TRIALS.items()):
        place = folder / f"trial{number}"
        place.mkdir()
        stock, ours = trial(Path(shutil.copytree(whole, place / "shards")), place)
        rows[name] = {"webdataset": stock, "cxr_dist": ours}
    return rows
