"""The ONNX graph gives the network's results in every mode, and contains no paths of this machine."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from cxr_dist.errors import UserError
from cxr_dist.inference import onnx as graph
from cxr_dist.inference.onnx import EvaluationGraph, write_onnx

KINDS = {
    "image": ({"mode": "image"}, "multiclass"),
    "text": ({"mode": "text"}, "multiclass"),
    "fused": ({"mode": "fused", "gradient_checkpointing": "text"}, "multilabel"),
    "pooled": ({"mode": "fused", "fusion": "pooled"}, "multiclass"),
}


def random_inputs(classifier, size, length):
    generator = torch.Generator().manual_seed(7)
    inputs = {}
    if classifier.image is not None:
        inputs["images"] = torch.randint(256, (size, 1, 64, 64), generator=generator, dtype=torch.uint8)
    if classifier.text is not None:
        inputs["input_ids"] = torch.randint(60, (size, length), generator=generator)
        inputs["attention_mask"] = (torch.arange(length) < torch.arange(1, size + 1)[:, None]).long()
    return inputs


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_equals_the_network_at_other_batch_sizes_and_lengths(build, tmp_path, kind):
    fields, task = KINDS[kind]
    classifier = build(**fields).eval()
    for (
        name,
        values,
    ) in classifier.named_buffers():  # BatchNorm statistics that differ from their initial values
        if name.endswith("running_var"):
            values.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "model.onnx"
    assert write_onnx(classifier, task, path, image_size=64, max_tokens=16) <= 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size, length in ((1, 2), (5, 37), (2, 64)):
        inputs = random_inputs(classifier, size, length)
        logits, probabilities = session.run(None, {n: v.numpy() for n, v in inputs.items()})
        with torch.no_grad():
            expected, expected_probabilities = EvaluationGraph(classifier, task)(**inputs)
        assert len(set(expected[:, 0].tolist())) == size  # the output must depend on the input
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
        np.testing.assert_allclose(probabilities, expected_probabilities.numpy(), atol=1e-4)
        if task == "multiclass":
            np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    # torch records the source file of each operation, which would reveal paths of this machine.
    written = path.read_bytes()
    assert b".py" not in written
    assert str(Path(graph.__file__).parents[2]).encode() not in written


def test_a_graph_that_differs_is_refused_and_the_network_is_not_changed(build, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    classifier = build(mode="text").double().eval()
    with pytest.raises(UserError, match=r"differs from the network by .*--onnx false"):
        write_onnx(classifier, "multiclass", tmp_path / "g.onnx", image_size=64, max_tokens=16)
    assert next(classifier.parameters()).dtype == torch.float64


def test_the_error_for_missing_packages_names_them(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'cxr_dist\[export\]'"):
        graph.check_onnx()
