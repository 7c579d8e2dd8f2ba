"""The evaluation network as one ONNX file: uint8 images and token ids in, logits and probabilities out.

Normalisation and softmax (or sigmoid) are part of the graph, so that another runtime needs none of our code. Every
graph is compared with the network in onnxruntime before it is used.
"""

import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Task
from cxr_dist.model.classifier import Classifier

TOLERANCE = 1e-4
"""Largest difference allowed between the graph and the network, in a logit or a probability."""

_OUTPUTS = ("logits", "probabilities")
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_MIN_VOCABULARY = 5  # every tokenizer has its special tokens
_MAX_BATCH = 4096  # torch.export needs a bound; the graph itself has none


class EvaluationGraph(nn.Module):
    """A classifier in eval mode and float32, from bytes to probabilities."""

    def __init__(self, classifier: Classifier, task: Task) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).float()
        self.task = task
        self.eval()

    def forward(
        self,
        images: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 [b, 1, H, W], ids and mask int64 [b, T] to logits and probabilities, float32 [b, C]."""
        normalised = None if images is None else self.classifier.levels.normalise(images)
        logits: Tensor = self.classifier(normalised, input_ids, attention_mask)
        return logits, logits.softmax(-1) if self.task == "multiclass" else logits.sigmoid()


def check_onnx() -> None:
    """Raise UserError if a package that `write_onnx` needs is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the ONNX graph needs {' and '.join(missing)}: pip install 'cxr_dist[export]', or export with --onnx false"
        )


def write_onnx(classifier: Classifier, task: Task, path: Path, *, image_size: int, max_tokens: int) -> float:
    """Write the network's graph to `path`; returns its largest difference from the network.

    The numbers of samples and of tokens are free; the size of the image is fixed.

    Raises UserError if a package is missing, or if the two differ by more than `TOLERANCE`; `path` is kept then.
    """
    check_onnx()
    graph = EvaluationGraph(classifier, task)
    traced = _inputs(graph, 2, max_tokens, image_size)
    shapes = _dynamic_shapes(graph, traced)
    with torch.no_grad(), _quiet():
        exported = torch.export.export(graph, (), kwargs=traced, dynamic_shapes=shapes)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            verbose=False,
            input_names=list(traced),
            output_names=list(_OUTPUTS),
            dynamic_shapes=shapes,  # names the free dimensions in the file
        )
    assert program is not None
    _forget_sources(program.model)
    program.save(path)
    difference = _largest_difference(graph, path, image_size, max_tokens)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the ONNX graph differs from the network by {difference:.2g}, more than {TOLERANCE:g}: export with "
            "--onnx false, and report this as a bug"
        )
    return difference


def _dynamic_shapes(graph: EvaluationGraph, inputs: dict[str, Tensor]) -> dict[str, dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    if graph.classifier.text is None:
        return {"images": {0: batch}}
    longest: Any = graph.classifier.text.max_tokens
    tokens = torch.export.Dim("tokens", min=2, max=longest)
    return {name: {0: batch} if name == "images" else {0: batch, 1: tokens} for name in inputs}


def _inputs(graph: EvaluationGraph, batch: int, length: int, image_size: int) -> dict[str, Tensor]:
    """Random inputs of the shapes and ranges that the graph takes; the first report has no padding."""
    generator = torch.Generator().manual_seed(batch)
    inputs: dict[str, Tensor] = {}
    if graph.classifier.image is not None:
        size = (batch, 1, image_size, image_size)
        inputs["images"] = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    if graph.classifier.text is not None:
        embeddings = getattr(graph.classifier.text, "get_input_embeddings", None)
        vocabulary = embeddings().num_embeddings if embeddings else _MIN_VOCABULARY
        lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
        lengths[0] = length
        mask = (torch.arange(length) < lengths).long()
        tokens = torch.randint(vocabulary, (batch, length), generator=generator)
        inputs |= {"input_ids": tokens * mask, "attention_mask": mask}
    return inputs


@torch.no_grad()
def _largest_difference(graph: EvaluationGraph, path: Path, image_size: int, max_tokens: int) -> float:
    """The largest difference over two batch sizes and two lengths, other than those of the trace."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for batch, length in ((1, max_tokens), (3, max_tokens // 2)):
        inputs = _inputs(graph, batch, length, image_size)
        outputs = session.run(list(_OUTPUTS), {name: values.numpy() for name, values in inputs.items()})
        expected = graph(**inputs)
        differences += [(torch.from_numpy(o) - e).abs().max() for o, e in zip(outputs, expected, strict=True)]
    return float(torch.stack(differences).max())


def _forget_sources(model: Any) -> None:
    """Remove the metadata in which torch records every operation's line of source, with paths of this machine."""
    model.metadata_props.clear()
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' messages about constants that they cannot fold and names that they change."""
    onnxscript = logging.getLogger("onnxscript")
    level = onnxscript.level
    onnxscript.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        onnxscript.setLevel(level)
