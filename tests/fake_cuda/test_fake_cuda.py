"""Training, evaluation, Monte-Carlo dropout, explanations and export never mix tensors of the CPU and of a GPU.

Nothing here needs a GPU: the tensors are fake (driverless.py). The code is that of a run; only the networks are
narrower, because fake tensors show wrong devices at any size.
"""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from driverless import GPU, fake_gpu, outside

from cxr_dist.config.named import RUNS, named_run
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.explain import attention_map, grad_cam
from cxr_dist.evaluate.passes import embeddings, inputs_of
from cxr_dist.evaluate.predict import predict_batch
from cxr_dist.evaluate.word_scores import gradient_times_input, token_attention
from cxr_dist.format.manifest import load_manifest
from cxr_dist.inference.onnx import EvaluationGraph
from cxr_dist.model.image_encoder import IMAGE_ENCODERS
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train import assembly
from cxr_dist.train.assembly import parts_of, prepare_run_folder
from cxr_dist.train.loop import TrainingRun

ENCODERS = [*IMAGE_ENCODERS, "examples/own_encoder/encoder.py:FourConvolutions"]


def at_test_size(config, tiny_config, **model):
    """A run on the tiny shards, with a small text encoder and micro-batches of 4."""
    small = dataclasses.replace(tiny_config.model, mode=config.model.mode, fusion=config.model.fusion)
    kept = {"brightness": config.data.brightness, "contrast": config.data.contrast, "sampling": config.data.sampling}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(tiny_config.data, **kept),
        model=dataclasses.replace(small, **({"image_dropout": 0.1, "head_dropout": (0.3, 0.2)} | model)),
        train=dataclasses.replace(config.train, epochs=2, freeze_epochs=0, mixup_from_epoch=1, log_every=1),
        seed=1,
        out=tiny_config.out,
    )


class Rehearsed:
    """The parts of a run on the fake GPU, and batches of its loader, which are real."""

    def __init__(self, config):
        self.config, self.manifest = config, load_manifest(Path(config.data.shards))
        prepare_run_folder(config, self.manifest, World())
        parts = parts_of(config, self.manifest, World())
        parts.trackers.close()
        self.batches = list(itertools.islice(parts.open_stream(0), 3 * len(parts.step.lanes)))
        options = {"tokenizer": parts.validate.tokenizer, "with_images": config.model.uses_image}
        [self.batch, *_] = evaluation_loader(config.data, self.manifest, "val", rank=0, world_size=1, **options)

    def parts(self, monkeypatch):
        """The parts of the run as training builds them; call within `fake_gpu`."""
        monkeypatch.setattr(assembly, "build_network", outside(assembly.build_network))
        parts = parts_of(self.config, self.manifest, World())
        assert parts.world.device == GPU
        return parts

    def model(self, monkeypatch):
        """The network in eval mode; call within `fake_gpu`."""
        return self.parts(monkeypatch).model.eval()

    def case(self):
        """A batch of the first sample."""
        first = {name: value[:1] for name, value in vars(self.batch).items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(self.batch, **(first | {"token_positions": None}))


def train(rehearsed, monkeypatch, steps=2, forget=lambda parts, monkeypatch: None):
    """Take steps of the training loop; returns the parts, which `forget` has changed before."""
    parts = rehearsed.parts(monkeypatch)
    forget(parts, monkeypatch)
    run, stream = TrainingRun(parts, StopRequest(0)), iter(rehearsed.batches)
    run._claim.take()  # as `restore` does, which also reads the step on the host
    parts.trackers.open(0, run.total)
    parts.bad_samples.open(0)
    for _ in range(steps):
        result = run.one_step(stream)
        run.log_if_due(result)
    run.draws()
    parts.trackers.close()
    return parts


def everything(parts):
    return parts.backend.model_tensors() | parts.backend.optimizer_tensors()


@pytest.mark.parametrize("name", RUNS)
def test_training_keeps_every_tensor_on_the_gpu(name, tiny_config, monkeypatch):
    rehearsed = Rehearsed(at_test_size(named_run(name), tiny_config))
    with fake_gpu():
        tensors = everything(train(rehearsed, monkeypatch))
    assert {tensor.device for tensor in tensors.values()} == {GPU}
    assert any(key.startswith("exp_avg/") for key in tensors)


VARIED = {
    "averaged weights": {"optim": {"ema_decay": 0.9}},
    "exact sums": {"exact_sums": True},
    "bf16": {"precision": "bf16"},
    "fp64": {"precision": "fp64"},
    "pooled fusion": {"model": {"fusion": "pooled"}},
    "text alone": {"model": {"mode": "text"}},
    "gradient checkpointing": {"model": {"gradient_checkpointing": "all"}},
    "adam without clipping": {"optim": {"name": "adam", "clip_norm": 0.0}},
}


@pytest.mark.parametrize("changes", VARIED.values(), ids=VARIED)
def test_so_do_other_ways_of_training(changes, tiny_config, monkeypatch):
    config = at_test_size(named_run("enhanced"), tiny_config)
    for field, value in changes.items():
        value = dataclasses.replace(getattr(config, field), **value) if isinstance(value, dict) else value
        config = dataclasses.replace(config, **{field: value})
    rehearsed = Rehearsed(config)
    with fake_gpu():
        tensors = everything(train(rehearsed, monkeypatch, steps=1))
    assert {tensor.device for tensor in tensors.values()} == {GPU}


def evaluate(rehearsed, model, scopes):
    """Predict a batch, without and with Monte-Carlo dropout."""
    config, task, batch = rehearsed.config, rehearsed.manifest.task, rehearsed.batch
    classes = len(rehearsed.manifest.classes)
    assert predict_batch(model, batch, config, task, McDropout(), GPU).shape == (len(batch), 1 + classes)
    assert embeddings(model, batch, config, GPU).shape[0] == len(batch)
    for scope in scopes:
        mc = McDropout(passes=2, scope=scope)
        assert predict_batch(model, batch, config, task, mc, GPU).shape == (len(batch), 3 + 3 * classes)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("baseline", "densenet121"), ("demo", "densenet-narrow"), *(("enhanced", e) for e in ENCODERS)],
)
def test_evaluation_dropout_explanation_and_export(name, encoder, tiny_config, monkeypatch):
    config = at_test_size(named_run(name), tiny_config, image_encoder=encoder)
    rehearsed, uses_text = Rehearsed(config), config.model.uses_text
    with fake_gpu():
        model = rehearsed.model(monkeypatch)
        evaluate(rehearsed, model, ["head", "all", *(["text"] if uses_text else [])])
        inputs = inputs_of(model, rehearsed.case().to(GPU))
        assert grad_cam(model, inputs, 0).ndim == 2
        if uses_text:
            assert attention_map(model, inputs).ndim == 3
            assert len(token_attention(model, inputs)) == len(gradient_times_input(model, inputs, 0))
        exported(rehearsed)


def exported(rehearsed):
    """The graph that becomes the ONNX file, moved to the GPU; it is made on the CPU."""
    manifest, config, batch = rehearsed.manifest, rehearsed.config, rehearsed.batch.to(GPU)
    model = outside(assembly.new_model)(config, manifest, config.run_dir, torch.device("cpu"))
    graph = outside(EvaluationGraph)(model, manifest.task).to(GPU)
    reports = (batch.tokens, batch.attention_mask) if config.model.uses_text else ()
    logits, probabilities = graph(batch.images, *reports)
    assert logits.device == probabilities.device == GPU


def jitter_on_the_cpu(parts, monkeypatch):
    monkeypatch.setattr("cxr_dist.data.augment.to_device", lambda values, device: values)


def buffer_on_the_cpu(parts, monkeypatch):
    layer = next(layer for layer in parts.model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    layer._buffers["running_mean"] = torch.zeros(layer.num_features)


@pytest.mark.parametrize("forget", [jitter_on_the_cpu, buffer_on_the_cpu])
def test_one_tensor_that_stays_on_the_cpu_is_noticed(forget, tiny_config, monkeypatch):
    rehearsed = Rehearsed(at_test_size(named_run("enhanced"), tiny_config))
    with fake_gpu(), pytest.raises((RuntimeError, AssertionError), match=r"device|on cpu"):
        train(rehearsed, monkeypatch, steps=1, forget=forget)


def test_tokens_that_stay_on_the_cpu_are_noticed_in_evaluation(tiny_config, monkeypatch):
    rehearsed = Rehearsed(at_test_size(named_run("demo"), tiny_config))
    with fake_gpu():
        model = rehearsed.model(monkeypatch)
        moved = Batch.to
        monkeypatch.setattr(
            Batch, "to", lambda batch, device: dataclasses.replace(moved(batch, device), tokens=batch.tokens)
        )
        with pytest.raises(RuntimeError, match="device"):
            evaluate(rehearsed, model, [])
