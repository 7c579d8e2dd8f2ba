"""The losses equal torch's own losses and the plain formula of the focal loss."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from cxr_dist.errors import UserError
from cxr_dist.model.losses import ClassificationLoss, balanced_class_weights, balanced_positive_weights

WEIGHTS = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64)


def make(name: str, task: str, weights: torch.Tensor | None = WEIGHTS, gamma: float = 2.0) -> ClassificationLoss:
    return ClassificationLoss(name=name, gamma=gamma, class_weights=weights, task=task)


def mean_loss(loss: ClassificationLoss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    targets, known = (t.to(logits.dtype) for t in loss.targets(labels, logits.shape[1]))
    return loss.sums(logits, targets, known) / loss.weight_sum(targets, known)


def case(task: str, size: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, 3, generator=generator, dtype=torch.float64)
    if task == "multiclass":
        return logits, torch.randint(0, 3, (size, 1), generator=generator)
    return logits, torch.randint(-1, 2, (size, 3), generator=generator)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_multiclass_cross_entropy_equals_torch(weights: torch.Tensor | None) -> None:
    logits, labels = case("multiclass")
    expected = torch.nn.CrossEntropyLoss(weight=weights)(logits, labels[:, 0])
    torch.testing.assert_close(mean_loss(make("cross_entropy", "multiclass", weights), logits, labels), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_multilabel_cross_entropy_equals_torch_over_known_labels(weights: torch.Tensor | None) -> None:
    logits, labels = case("multilabel")
    every = torch.nn.BCEWithLogitsLoss(pos_weight=weights, reduction="none")(logits, labels.double())
    expected = every[labels >= 0].mean()
    torch.testing.assert_close(mean_loss(make("cross_entropy", "multilabel", weights), logits, labels), expected)


def test_multiclass_focal_equals_the_plain_formula() -> None:
    logits, labels = case("multiclass")
    p = logits.softmax(-1).gather(1, labels)[:, 0]
    w = WEIGHTS[labels[:, 0]]
    expected = (w * -((1 - p) ** 2) * p.log()).sum() / w.sum()
    torch.testing.assert_close(mean_loss(make("focal", "multiclass"), logits, labels), expected)


def test_multilabel_focal_equals_the_plain_formula() -> None:
    logits, labels = case("multilabel")
    p, known = logits.sigmoid(), labels >= 0
    positive, negative = -WEIGHTS * (1 - p) ** 2 * p.log(), -(p**2) * (1 - p).log()
    expected = torch.where(labels == 1, positive, negative)[known].mean()
    torch.testing.assert_close(mean_loss(make("focal", "multilabel"), logits, labels), expected)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_focal_with_gamma_zero_is_cross_entropy(task: str) -> None:
    logits, labels = case(task)
    focal, plain = make("focal", task, gamma=0.0), make("cross_entropy", task)
    torch.testing.assert_close(mean_loss(focal, logits, labels), mean_loss(plain, logits, labels))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@given(share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_loss_of_mixed_targets_is_the_mixed_loss(name: str, task: str, share: float, seed: int) -> None:
    logits, labels = case(task, seed=seed)
    loss = make(name, task)
    targets, known = (t.double() for t in loss.targets(labels, 3))
    other, both_known = targets.roll(1, 0), known * known.roll(1, 0)
    mixed = torch.lerp(other, targets, share)
    for function in (lambda t: loss.sums(logits, t, both_known), lambda t: loss.weight_sum(t, both_known)):
        torch.testing.assert_close(function(mixed), share * function(targets) + (1 - share) * function(other))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_sums_over_parts_give_the_whole(name: str, task: str) -> None:
    logits, labels = case(task)
    loss = make(name, task)
    targets, known = (t.double() for t in loss.targets(labels, 3))
    parts = [slice(0, 1), slice(1, 5), slice(5, 12)]
    total = sum(loss.sums(logits[p], targets[p], known[p]) for p in parts)
    weight = sum(loss.weight_sum(targets[p], known[p]) for p in parts)
    torch.testing.assert_close(total / weight, mean_loss(loss, logits, labels))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize(("task", "labels"), [("multiclass", [[-1]]), ("multilabel", [[-1, -1, -1]])])
def test_unknown_labels_add_zero_to_both_sums(name: str, task: str, labels: list[list[int]]) -> None:
    loss = make(name, task)
    targets, known = loss.targets(torch.tensor(labels), 3)
    logits = torch.randn(1, 3, requires_grad=True)
    loss.sums(logits, targets, known).backward()
    assert loss.sums(logits, targets, known) == 0
    assert loss.weight_sum(targets, known) == 0
    assert torch.equal(logits.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_extreme_logits_give_finite_losses_and_gradients(task: str, gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    labels = torch.tensor([[0], [0]]) if task == "multiclass" else torch.tensor([[1, 0, 1], [1, 0, 0]])
    loss = make("focal", task, gamma=gamma)
    value = loss.sums(logits, *loss.targets(labels, 3))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_the_loss_of_half_precision_logits_is_float32_and_of_float64_logits_float64() -> None:
    loss = make("focal", "multiclass")
    targets, known = loss.targets(torch.tensor([[0], [2]]), 3)
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.25, 4.0]])
    with torch.autocast("cpu", torch.bfloat16):
        half = loss.sums(logits.bfloat16(), targets, known)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss.sums(logits, targets, known))
    assert loss.sums(logits.double(), targets, known).dtype == torch.float64


@given(counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=8))
def test_balanced_weights_are_scikit_learns(counts: list[int]) -> None:
    classes = np.arange(len(counts))
    small = [1 + count % 50 for count in counts]
    expected = compute_class_weight("balanced", classes=classes, y=np.repeat(classes, small))
    np.testing.assert_allclose(balanced_class_weights(small).numpy(), expected, rtol=1e-6)


def test_positive_weights_give_positives_and_negatives_equal_total_weight() -> None:
    positives, negatives = np.array([10, 3]), np.array([30, 1])
    weights = balanced_positive_weights(positives, negatives).numpy()
    assert weights.dtype == balanced_class_weights(positives).numpy().dtype == np.float32
    np.testing.assert_allclose(weights * positives, negatives, rtol=1e-6)


def test_a_class_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match=r"class 1 .* no balanced weight.*--loss.class-weights none"):
        balanced_class_weights([4, 0, 2])
    with pytest.raises(UserError, match="class 0"):
        balanced_positive_weights([0, 1], [5, 5])
