"""The contrastive loss and its gradient equal open_clip's, autograd's, and answers that are known beforehand."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cxr_dist.model import contrastive
from cxr_dist.model.contrastive import LARGEST_LOG_SCALE, Pairs, pair_loss


def rows_of(batch: int, dimension: int = 5, temperature: float = 0.1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        functional.normalize(torch.randn(batch, dimension, generator=generator, dtype=torch.float64), dim=1)
        for _ in range(2)
    )
    return torch.cat([image, text, torch.full((batch, 1), -math.log(temperature), dtype=torch.float64)], 1)


def different(batch: int) -> Pairs:
    return Pairs(reports=torch.arange(1, batch + 1)[:, None].expand(-1, 2))


def plain_loss(rows: torch.Tensor, left_out: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The formula of the paper over all pairs at once, for autograd."""
    dimension = rows.shape[1] // 2
    scores = rows[:, -1].mean().exp() * rows[:, :dimension] @ rows[:, dimension:-1].T
    scores = scores.masked_fill(left_out, -math.inf)
    own = torch.arange(len(rows))
    both = (
        functional.cross_entropy(scores, own, reduction="none"),
        functional.cross_entropy(scores.T, own, reduction="none"),
    )
    return ((both[0] + both[1]) / 2)[present].mean()


def open_clip_loss() -> ModuleType:
    """open_clip/loss.py alone, because the whole package imports more than it needs."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no open_clip: pip install --no-deps open_clip_torch")
    spec = importlib.util.spec_from_file_location("clip_loss", Path(package.submodule_search_locations[0]) / "loss.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("batch", [2, 7, 16])
def test_loss_and_gradient_equal_those_of_open_clip(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "_ROWS", 5)
    rows = rows_of(batch).requires_grad_()
    expected = open_clip_loss().ClipLoss()(rows[:, :5], rows[:, 5:10], rows[:, -1].mean().exp())
    expected.backward()
    found = pair_loss(rows.detach(), different(batch))
    torch.testing.assert_close(found.loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.gradient, rows.grad, rtol=1e-11, atol=1e-13)
    assert int(found.masked) == 0


@settings(max_examples=40, deadline=None)
@given(
    reports=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12),
    labels=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradient_equals_autograd_with_alike_reports(reports: list[tuple[int, int]], labels: bool, seed: int) -> None:
    # A report without text has no sentences either.
    ids = torch.tensor([(whole, part if whole else 0) for whole, part in reports])
    generator = torch.Generator().manual_seed(seed)
    known = torch.randint(-1, 2, (len(ids), 2), generator=generator) if labels else None
    rows, pairs = rows_of(len(ids), seed=seed).requires_grad_(), Pairs(reports=ids, labels=known)
    present = ids[:, 1] != 0
    found = pair_loss(rows.detach(), pairs)
    left_out = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for i in range(len(ids)):
        for j in range(len(ids)):
            same = bool((ids[i] == ids[j]).any()) or not (present[i] and present[j])
            if known is not None:
                same |= known[i].tolist() == known[j].tolist() and -1 not in known[i]
            left_out[i, j] = same and i != j
    assert int(found.masked) == int((left_out & present & present[:, None]).sum()) // 2
    if not present.any():
        assert float(found.loss) == 0
        assert not found.gradient.any()
        return
    expected = plain_loss(rows, left_out, present)
    expected.backward()
    torch.testing.assert_close(found.loss, expected.detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.gradient, rows.grad, rtol=1e-9, atol=1e-12)


def test_the_same_report_everywhere_has_no_loss() -> None:
    found = pair_loss(rows_of(6), Pairs(reports=torch.ones(6, 2, dtype=torch.int64)))
    assert float(found.loss) == pytest.approx(0, abs=1e-12)
    assert int(found.masked) == 15
    assert not found.gradient.any()


def test_equal_embeddings_have_the_loss_of_guessing() -> None:
    rows = rows_of(8)[:1].expand(8, -1).clone()
    assert float(pair_loss(rows, different(8)).loss) == pytest.approx(math.log(8))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_blocks_change_rounding_at_most(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, pairs = rows_of(9), Pairs(reports=torch.tensor([1, 1, 2, 0, 3, 4, 4, 4, 5])[:, None].expand(-1, 2))
    whole = pair_loss(rows, pairs)
    monkeypatch.setattr(contrastive, "_ROWS", block)
    found = pair_loss(rows, pairs)
    torch.testing.assert_close(found.loss, whole.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gradient, whole.gradient, rtol=1e-11, atol=1e-14)
    assert int(found.masked) == int(whole.masked) == 4


@pytest.mark.parametrize(("raw", "kept"), [(LARGEST_LOG_SCALE + 1, LARGEST_LOG_SCALE), (-1.0, 0.0)])
def test_the_temperature_stays_in_its_range_and_may_come_back(raw: float, kept: float) -> None:
    """Beyond the bound the loss is that at the bound, and the gradient does not lead further away."""
    rows = rows_of(6)
    rows[:, -1] = raw
    at_bound = rows.clone()
    at_bound[:, -1] = kept
    found, expected = pair_loss(rows, different(6)), pair_loss(at_bound, different(6))
    assert float(found.loss) == float(expected.loss)
    assert float(found.temperature) == pytest.approx(math.exp(-kept))
    slope, free = float(found.gradient[0, -1]), float(expected.gradient[0, -1])
    outwards = free * (raw - kept) < 0  # a step of descent would lead further away
    assert slope == (0 if outwards else free)


def test_not_finite_embeddings_make_the_loss_not_finite() -> None:
    rows = rows_of(4)
    rows[2, 1] = math.nan
    assert not math.isfinite(float(pair_loss(rows, different(4)).loss))
