"""Measure the cost of padding in the text encoder: operations, and the time of forward and backward passes.

    python -m benchmarks.text [--batch 8] [--turns 5] [--threads 2]

BERT-base with random weights, which take the same time as pretrained ones. The same reports have three layouts: padded
to the limit of tokens, as in the original notebook; padded to the longest of the batch, rounded up to a multiple of
16; and packed. Torch counts the operations of micro-batches drawn from the demo's synthetic reports and, if
CXR_DIST_REAL_DATA names the folder of real data, from Open-i's. The timed batch has lengths that are evenly spread
over those of Open-i. The layouts take turns. Writes benchmarks/results/text.json.
"""

import argparse
import functools
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import page
from benchmarks.films import SECTIONS
from benchmarks.full_size import bert_folder
from benchmarks.harness import arguments, in_turns, this_device, timed, write_result
from cxr_dist.data.packing import packed_positions
from cxr_dist.data.text import PAD_MULTIPLE, learn_wordpiece
from cxr_dist.model.text_encoder import TextEncoder
from cxr_dist.shard.phantom.study import draw_study
from cxr_dist.shard.phantom.wording import write_report

TARGET = 0.10  # largest share of the operations on padding
LIMIT = 128  # largest number of tokens of a report, as in the original notebook
LAYOUTS = ("padded to the limit", "padded to the longest", "packed")
MICRO_BATCHES = (8, 16, 32)
DRAWN_BATCHES = 100
LAYERS = 12  # of BERT-base
# Deciles of the number of tokens in the reports that `open_i` reads.
OPEN_I_DECILES = (2, 14, 28, 35, 41, 47, 54, 62, 75, 96, 128)

Layout = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Token ids and mask, int64 [b, T], and the positions of the packed tokens; None if all are computed."""


def bert_base(device: str | torch.device, layers: int = LAYERS) -> TextEncoder:
    """BERT-base with random but reproducible weights; without weights on the device `meta`."""
    with bert_folder(num_hidden_layers=layers) as folder, torch.device(device):
        torch.manual_seed(0)
        return TextEncoder(folder)


def demo_reports() -> list[str]:
    """The demo's reports, as its recipe makes them."""
    reports = [write_report(draw_study(0, number), 0) for number in range(1000)]
    return [" ".join(report[name] for name in SECTIONS) for report in reports]


def open_i() -> list[str]:
    """Open-i's published reports; none without the folder of real data."""
    archive = Path(os.environ.get("CXR_DIST_REAL_DATA", "")) / "openi" / "NLMCXR_reports.tgz"
    return list(_from_archive(archive)) if archive.is_file() else []


def _from_archive(archive: Path) -> Iterator[str]:
    with tarfile.open(archive) as members:
        for member in members:
            file = members.extractfile(member) if member.name.endswith(".xml") else None
            if file is not None:
                parts = ElementTree.parse(file).getroot().iter("AbstractText")
                text = {part.get("Label", "").lower(): "".join(part.itertext()) for part in parts}
                yield " ".join(text[name] for name in SECTIONS if text.get(name))


def lengths_of(reports: list[str]) -> np.ndarray:
    """The number of tokens of each report, int64, at most LIMIT, with the package's vocabulary for these reports."""
    tokenizer = learn_wordpiece(reports)
    tokenizer.enable_truncation(LIMIT)
    return np.array([len(report.ids) for report in tokenizer.encode_batch(reports)])


def layouts_of(lengths: np.ndarray) -> dict[str, Layout]:
    """A batch of random reports of these lengths in each layout."""
    tokens = torch.randint(1000, 28000, (len(lengths), LIMIT), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LIMIT) < torch.from_numpy(lengths)[:, None]).long()
    width = -(-int(lengths.max()) // PAD_MULTIPLE) * PAD_MULTIPLE
    short, shown = (tokens * mask)[:, :width].contiguous(), mask[:, :width].contiguous()
    made: tuple[Layout, ...] = (
        (tokens * mask, mask, None),
        (short, shown, None),
        (short, shown, packed_positions(shown)),
    )
    return dict(zip(LAYOUTS, made, strict=True))


@functools.cache
def layer_without_values() -> TextEncoder:
    """One layer for counting; all layers are alike, and there are no matrix products outside them."""
    return bert_base("meta", layers=1)


@functools.cache
def operations(reports: int, width: int, computed: int | None) -> int:
    """Floating-point operations of a layer's forward pass on [reports, width] tokens, as torch counts them.

    `computed` is the number of packed tokens; None means all tokens.
    """
    ids = torch.ones(reports, width, dtype=torch.int64, device="meta")
    places = None if computed is None else torch.ones(computed, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer_without_values()(ids, ids, places)
    return int(counter.get_total_flops())


def needed_operations(lengths: np.ndarray) -> int:
    """The operations of all reports without padding."""
    return sum(operations(1, int(length), None) for length in lengths)


def padding_shares(lengths: np.ndarray, micro_batch: int) -> dict[str, float]:
    """The share of operations on padding by layout, over micro-batches drawn from reports of these lengths."""
    random = np.random.default_rng(0)
    spent, needed = dict.fromkeys(LAYOUTS, 0), 0
    for _ in range(DRAWN_BATCHES):
        drawn = random.choice(lengths, micro_batch, replace=False)
        needed += needed_operations(drawn)
        for name, (tokens, _, places) in layouts_of(drawn).items():
            computed = None if places is None else len(places)
            spent[name] += operations(micro_batch, tokens.shape[1], computed)
    return {name: 1 - needed / count for name, count in spent.items()}


def run(encoder: TextEncoder, layout: Layout, precision: str) -> torch.Tensor:
    """Run a forward and backward pass of a weighted sum; returns the vectors of the real tokens, [n, D]."""
    tokens, mask, places = layout
    weights = torch.linspace(-1, 1, encoder.width, device=tokens.device)  # because LayerNorm fixes the sum of squares
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=precision == "bf16"):
        vectors = encoder(tokens, mask, places)
    (vectors.float() * weights * mask[..., None]).sum().backward()
    return vectors.detach()[mask.bool()].float()


def gradient(encoder: TextEncoder) -> torch.Tensor:
    """The gradient of all parameters as one vector; it is cleared."""
    flat = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
    encoder.zero_grad(set_to_none=True)
    return flat


def differences(encoder: TextEncoder, layouts: dict[str, Layout], precision: str) -> dict[str, list[float]]:
    """The largest differences from the first layout without dropout: of the vectors, and of the gradient.

    That of the gradient is a share of the gradient's largest element.
    """
    encoder.eval()
    expected, expected_gradient = run(encoder, layouts[LAYOUTS[0]], precision), gradient(encoder)
    found = {}
    for name in LAYOUTS[1:]:
        vector = (run(encoder, layouts[name], precision) - expected).abs().max()
        share = (gradient(encoder) - expected_gradient).abs().max() / expected_gradient.abs().max()
        found[name] = [float(vector), float(share)]
    encoder.train()
    return found


def seconds_of(encoder: TextEncoder, layout: Layout, precision: str) -> float:
    """Seconds of a forward and backward pass."""
    seconds = timed(functools.partial(run, encoder, layout, precision), layout[0].device)
    encoder.zero_grad(set_to_none=True)
    return seconds


def timed_lengths(reports: int) -> np.ndarray:
    """The lengths of `reports` reports, evenly spread over those of Open-i."""
    spread = (np.arange(reports) + 0.5) / reports
    return np.interp(spread, np.linspace(0, 1, len(OPEN_I_DECILES)), OPEN_I_DECILES).round().astype(int)


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds and differences of results by layout, for each precision."""
    lengths, encoder = timed_lengths(options.batch), bert_base(device)
    layouts: dict[str, Layout] = {
        name: (tokens.to(device), mask.to(device), None if places is None else places.to(device))
        for name, (tokens, mask, places) in layouts_of(lengths).items()
    }
    needed = 3 * LAYERS * needed_operations(lengths)  # the backward pass has twice as many as the forward pass
    found: dict[str, Any] = {"lengths": lengths.tolist(), "needed_operations": needed}
    for precision in ("fp32", "bf16"):
        apart = differences(encoder, layouts, precision)
        ways = {name: functools.partial(seconds_of, encoder, layout, precision) for name, layout in layouts.items()}
        seconds = in_turns(ways, options.turns)
        found[precision] = {"seconds": seconds, "differences": apart}
    return found


def all_shares(lengths: np.ndarray) -> dict[str, object]:
    """The number of reports, the deciles of their lengths, and the shares on padding by size of micro-batch."""
    deciles = np.quantile(lengths, np.linspace(0, 1, 11)).tolist()
    shares = {f"micro-batch {size}": padding_shares(lengths, size) for size in MICRO_BATCHES}
    return {"reports": len(lengths), "deciles": deciles} | shares


def main() -> None:
    """Count, measure, write and print the result."""
    device = this_device()
    cuda = device.type == "cuda"
    options = arguments(__doc__, batch=64 if cuda else 8, turns=20 if cuda else 5, threads=2)
    torch.set_num_threads(options.threads)
    sets = {"the demo's made reports": demo_reports(), "Open-i's reports": open_i()}
    shares = {name: all_shares(lengths_of(reports)) for name, reports in sets.items() if reports}
    times = measure(options, device)
    what = "the text encoder with and without padding"
    write_result("text", what, options, device, target=TARGET, shares_on_padding=shares, times=times)
    page.show("text", device.type)
    print(f"target: at most {TARGET:.0%} of the operations on padding if packed")
    for precision in ("fp32", "bf16"):
        print(f"largest differences from {LAYOUTS[0]}, {precision}: {times[precision]['differences']}")


if __name__ == "__main__":
    main()
