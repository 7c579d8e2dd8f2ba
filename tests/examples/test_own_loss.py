"""The example of a loss equals torch's label smoothing, and works in a run outside the repository."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cxr_dist.model.losses import ClassificationLoss

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_loss" / "loss.py"
SMALL = (
    "--data.global-batch 8 --data.micro-batch 4 --data.image-size 32 --model.mode image --train.max-steps 2 "
    "--train.log-every 1 --train.save-every 1 --train.mixup-alpha 0.4 --train.mixup-from-epoch 1 "
    "--loss.name loss.py:smoothed --out run"
)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_example_loss_equals_torchs_label_smoothing(task):
    torch.manual_seed(0)
    logits = torch.randn(6, 3, dtype=torch.float64)
    loss = ClassificationLoss(name=f"{EXAMPLE}:smoothed", gamma=0.0, class_weights=None, task=task)
    if task == "multiclass":
        labels = torch.randint(0, 3, (6, 1))
        expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels[:, 0])
    else:
        labels = torch.randint(0, 2, (6, 3))
        expected = torch.nn.BCEWithLogitsLoss()(logits, labels.double() * 0.9 + 0.05)
    targets, known = loss.targets(labels, 3)
    value = loss.sums(logits, targets.double(), known.double()) / loss.weight_sum(targets, known)
    torch.testing.assert_close(value, expected)


def test_a_run_with_the_example_loss_resumes_evaluates_and_refuses_a_changed_file(tmp_path, tiny_shards, at_site):
    """Takes about half a minute, because five processes start and import torch."""
    shutil.copy(EXAMPLE, tmp_path)
    train = ("train", "demo", "--data.shards", tiny_shards, *SMALL.split())
    status, output = at_site(*train, "--train.max-minutes", "0.0001")
    assert status == 75, output
    status, output = at_site(*train)
    assert status == 0, output
    assert "resumed after step 1 of 2" in output
    assert "loss.name" in json.loads((tmp_path / "run" / "parts.json").read_text())
    (tmp_path / "loss.py").write_text(EXAMPLE.read_text() + "\n# another file\n")
    status, output = at_site(*train)
    assert status == 2
    assert "loss.name: loss.py:smoothed is defined by another file than when this run began" in output
    status, output = at_site("evaluate", "run")  # needs no loss
    assert status == 0, output
