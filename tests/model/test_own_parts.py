"""Encoders and losses that the user writes are tested before a run starts, and refused if they break the protocol."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from cxr_dist.config.model import ModelConfig
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.word_scores import gradient_times_input, token_attention
from cxr_dist.model.classifier import build_classifier
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout, mc_logits
from cxr_dist.model.own_parts import check_parts
from cxr_dist.train.flops import count_flops
from cxr_dist.train.memory.footprint import footprint
from cxr_dist.train.memory.needs import all_checkpointing

SOURCE = '''
import json
import torch
from torch import nn

class Net(nn.Module):
    """Five tokens, which do not form a grid over an image; pooled is not computed from them."""
    mean, deviation = 0.25, 0.5

    def __init__(self, config):
        super().__init__()
        self.width = 6
        self.tokens, self.pooled = nn.LazyLinear(30), nn.LazyLinear(6)
        self.dropout = nn.Dropout(0.5)
        self(torch.zeros(1, 1, 32, 32))

    def forward(self, images):
        flat = self.dropout(images.flatten(1))
        return self.tokens(flat).view(-1, 5, 6), self.pooled(flat)

class Recomputing(Net):
    gradient_checkpointing = True

class OneResult(Net):
    def forward(self, images):
        return super().forward(images)[0]

class FlatTokens(Net):
    def forward(self, images):
        tokens, pooled = super().forward(images)
        return tokens.flatten(1), pooled

class OtherWidth(Net):
    def forward(self, images):
        tokens, pooled = super().forward(images)
        return tokens, pooled[:, :5]

class Infinite(Net):
    def forward(self, images):
        tokens, pooled = super().forward(images)
        return tokens, pooled / 0

class Unused(Net):
    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(6, 2)

class Fails(Net):
    def forward(self, images):
        raise KeyError("Mrs Featherstonehaugh")

class NoWidth(Net):
    def __init__(self, config):
        super().__init__(config)
        self.width = "6"

def no_module(config):
    return lambda images: images

class Text(nn.Module):
    def __init__(self, folder, config):
        super().__init__()
        self.width, self.max_tokens = 6, 64
        size = json.loads((folder / "config.json").read_text())["vocab_size"]
        self.embeddings = nn.Embedding(size, 6)

    def forward(self, tokens, attention_mask, positions=None):
        return self.embeddings(tokens)

class TextOfOther(Text):
    def forward(self, tokens, attention_mask, positions=None):
        return self.embeddings(tokens)[:, :1]

def brier(logits, positive, task, gamma):
    return (float(positive) - logits.sigmoid()) ** 2

def summed(logits, positive, task, gamma):
    return logits.sum()

def detached(logits, positive, task, gamma):
    return logits.detach() ** 2

def infinite(logits, positive, task, gamma):
    return -(logits - logits).log()

def fails(logits, positive, task, gamma):
    raise KeyError("Mrs Featherstonehaugh")
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(SOURCE)
    return f"{tmp_path}/mine.py"


def configured(**parts: str) -> Config:
    """The demo run with images of 32 pixels and the given image_encoder, text_encoder, loss and checkpointing."""
    demo = named_run("demo")
    loss = dataclasses.replace(demo.loss, name=parts.pop("loss", "focal"))
    model = dataclasses.replace(demo.model, **parts)  # type: ignore[arg-type]
    data = dataclasses.replace(demo.data, image_size=32, max_tokens=32, micro_batch=4)
    return dataclasses.replace(demo, loss=loss, model=model, data=data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OneResult", "must return a pair: tokens and pooled"),
        ("FlatTokens", r"must return tokens \[b, n, 6\] as its first"),
        ("OtherWidth", r"pooled must have the shape \[2, 6\]; found \[2, 5\]"),
        ("Infinite", "pooled are not finite"),
        ("Unused", "output that this model uses does not depend on the parameter classifier.weight"),
        ("Fails", r"raised KeyError in line \d+ of mine\.py"),
        ("NoWidth", "must have `width`, an integer of 1 or more; found '6'"),
        ("no_module", "must make an nn.Module"),
        ("Nett", "defines no 'Nett' that can be called"),
    ],
)
def test_an_image_encoder_that_breaks_the_protocol_is_refused(mine: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"image encoder '.*mine.py:{name}'.*{message}") as caught:
        check_parts(configured(image_encoder=f"{mine}:{name}"), "multiclass")
    assert "Featherstonehaugh" not in str(caught.value)


def test_parameters_of_tokens_that_no_report_attends_to_are_refused(mine: str) -> None:
    """A parameter without a gradient is an error on several ranks, and would not be noticed on a single rank."""
    with pytest.raises(UserError, match=r"does not depend on the parameter tokens\.weight"):
        check_parts(configured(mode="image", image_encoder=f"{mine}:Net"), "multiclass")


def test_an_unknown_image_encoder_is_refused_with_the_most_similar_name() -> None:
    with pytest.raises(
        UserError, match=r"unknown image encoder 'densenet12' \(did you mean 'densenet121'\?\).*FILE\.py:NAME"
    ):
        check_parts(configured(image_encoder="densenet12"), "multiclass")


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("multiclass", "summed", r"losses must have the shape \[2, 3\]; found \[\]"),
        ("multilabel", "detached", "must let gradients reach the logits"),
        ("multilabel", "infinite", "losses are not finite"),
        ("multiclass", "fails", r"raised KeyError in line \d+ of mine\.py"),
    ],
)
def test_a_loss_that_breaks_the_protocol_is_refused(mine: str, task, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"loss '.*mine.py:{name}'.*{message}"):
        check_parts(configured(loss=f"{mine}:{name}"), task)


def test_a_text_encoder_that_breaks_the_protocol_is_refused(mine: str) -> None:
    with pytest.raises(UserError, match=r"TextOfOther': vectors must have the shape \[2, 16, 6\]"):
        check_parts(configured(text_encoder=f"{mine}:TextOfOther"), "multiclass")
    tight = configured(text_encoder=f"{mine}:Text")
    tight = dataclasses.replace(tight, data=dataclasses.replace(tight.data, max_tokens=65))
    with pytest.raises(UserError, match=r"takes 64 tokens at most: lower --data\.max-tokens"):
        check_parts(tight, "multiclass")


def test_parts_that_follow_the_protocol_pass_and_the_random_generator_is_not_changed(mine: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    config = configured(image_encoder=f"{mine}:Net", text_encoder=f"{mine}:Text", loss=f"{mine}:brier")
    for task in ("multiclass", "multilabel"):
        check_parts(config, task)
    assert torch.equal(torch.get_rng_state(), before)


def test_recomputation_is_refused_if_an_encoder_does_not_support_it(mine: str) -> None:
    with pytest.raises(UserError, match=r"image encoder .*Net' has no attribute gradient_checkpointing"):
        check_parts(configured(image_encoder=f"{mine}:Net", gradient_checkpointing="all"), "multiclass")
    with pytest.raises(UserError, match=r"text encoder .*Text' has no attribute gradient_checkpointing"):
        check_parts(configured(text_encoder=f"{mine}:Text", gradient_checkpointing="text"), "multiclass")
    for name, setting in (("Recomputing", "all"), ("Net", "text"), ("Net", "auto")):
        check_parts(configured(image_encoder=f"{mine}:{name}", gradient_checkpointing=setting), "multiclass")


@pytest.mark.parametrize(
    ("mode", "name", "most"),
    [
        ("fused", "Net", "text"),
        ("fused", "Recomputing", "all"),
        ("image", "Net", "off"),
        ("image", "Recomputing", "image"),
    ],
)
def test_auto_recomputes_only_encoders_that_support_it(mine: str, mode, name: str, most: str) -> None:
    assert all_checkpointing(configured(mode=mode, image_encoder=f"{mine}:{name}")) == most


@pytest.fixture
def model(mine: str, small_bert: Path):
    """A fused classifier with two encoders that the user writes, in eval mode."""
    torch.manual_seed(0)
    config = configured(image_encoder=f"{mine}:Net", text_encoder=f"{mine}:Text").model
    return build_classifier(config, 3, small_bert).eval()


def test_explanations_and_measurements_of_own_encoders_work_or_are_omitted(model, mine: str, small_bert: Path) -> None:
    tokens = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    inputs = Inputs(torch.randn(2, 1, 32, 32), tokens, (tokens != 0).long())
    with torch.no_grad():
        features = model.encode(inputs)
        certain = model.classify(features)
    mc = McDropout(passes=4, scope="all")
    passes = mc_logits(model, inputs, features, torch.arange(2), mc, seed=1)
    assert passes.std(0).min() > 0
    assert certain.shape == (2, 3)
    one = Inputs(*(part if part is None else part[:1] for part in inputs))
    assert grad_cam(model, one, 0) is None  # five tokens are no grid
    assert token_attention(model, one) is None
    assert gradient_times_input(model, one, 0) is None
    counted = count_flops(model, 32)
    assert counted is not None
    assert counted.image >= 2 * 32 * 32 * 36
    config = configured(image_encoder=f"{mine}:Net", text_encoder=f"{mine}:Text", loss=f"{mine}:brier")
    estimate = footprint(config, 3, small_bert, "cpu")
    assert estimate is None or estimate.weights == 4 * sum(p.numel() for p in model.parameters())


def test_images_are_normalised_by_the_encoders_own_statistics(model) -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert model.levels.normalise(images).flatten().tolist() == [-0.5, 1.5]


def test_the_pooled_image_of_a_study_is_the_mean_over_its_images(model) -> None:
    images, tokens = torch.randn(3, 1, 32, 32), torch.tensor([[2, 7, 3]] * 2)
    rows = torch.tensor([[0, 1], [2, -1]])
    with torch.no_grad():
        features = model.encode(Inputs(images, tokens, torch.ones_like(tokens), view_rows=rows))
        _, pooled = model.image(images)
    torch.testing.assert_close(features.image_pooled[0], pooled[:2].mean(0))
    torch.testing.assert_close(features.image_pooled[1], pooled[2])


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("tiny", False),
        ("emilyalsentzer/Bio_ClinicalBERT", False),
        ("/data/models:v2", False),
        ("text.py:Net", True),
        ("/a b/text.py:Net", True),
        ("site.encoders:Net", True),
    ],
)
def test_a_text_encoder_with_a_module_or_file_name_is_the_users_own(name: str, own: bool) -> None:
    assert ModelConfig(text_encoder=name).has_own_text_encoder is own


def test_an_own_encoder_is_a_module_of_the_classifier(model) -> None:
    assert isinstance(model.image, nn.Module)
    assert {"image.tokens.weight", "text.embeddings.weight"} <= model.state_dict().keys()
