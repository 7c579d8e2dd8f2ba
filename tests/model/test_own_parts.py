"""Encoders and losses of the user's own: tried before a run starts, and refused in one sentence where one breaks."""

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
    """Five tokens, which are no grid over a film; the pooled film does not come from them."""
    mean, deviation = 0.25, 0.5

    def __init__(self, config):
        super().__init__()
        self.width = 6
        self.tokens, self.pooled = nn.LazyLinear(30), nn.LazyLinear(6)
        self.dropout = nn.Dropout(0.5)
        self(torch.zeros(1, 1, 32, 32))

    def forward(self, films):
        flat = self.dropout(films.flatten(1))
        return self.tokens(flat).view(-1, 5, 6), self.pooled(flat)

class Recomputing(Net):
    gradient_checkpointing = True

class OneResult(Net):
    def forward(self, films):
        return super().forward(films)[0]

class FlatTokens(Net):
    def forward(self, films):
        tokens, pooled = super().forward(films)
        return tokens.flatten(1), pooled

class OtherWidth(Net):
    def forward(self, films):
        tokens, pooled = super().forward(films)
        return tokens, pooled[:, :5]

class Infinite(Net):
    def forward(self, films):
        tokens, pooled = super().forward(films)
        return tokens, pooled / 0

class Unused(Net):
    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(6, 2)

class Fails(Net):
    def forward(self, films):
        raise KeyError("Mrs Featherstonehaugh")

class NoWidth(Net):
    def __init__(self, config):
        super().__init__(config)
        self.width = "6"

def no_module(config):
    return lambda films: films

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
    """The demo run with films of 32 pixels and other parts: image_encoder, text_encoder, loss, checkpointing."""
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
        ("Unused", "its parameter classifier.weight does not enter what this model uses"),
        ("Fails", r"raised KeyError in line \d+ of mine\.py"),
        ("NoWidth", "must have `width`, a whole number of 1 or more; found '6'"),
        ("no_module", "must make an nn.Module"),
        ("Nett", "defines no 'Nett' that can be called"),
    ],
)
def test_an_image_encoder_that_breaks_the_protocol_is_refused(mine: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"image encoder '.*mine.py:{name}'.*{message}") as caught:
        check_parts(configured(image_encoder=f"{mine}:{name}"), "multiclass")
    assert "Featherstonehaugh" not in str(caught.value)


def test_tokens_that_no_report_attends_to_need_no_parameters(mine: str) -> None:
    """On several ranks a parameter without a gradient is an error, which a single rank would not meet."""
    with pytest.raises(UserError, match=r"its parameter tokens\.weight does not enter what this model uses"):
        check_parts(configured(mode="image", image_encoder=f"{mine}:Net"), "multiclass")


def test_an_unknown_image_encoder_is_refused_with_the_nearest() -> None:
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


def test_parts_that_keep_the_protocol_pass_and_move_no_random_number(mine: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    config = configured(image_encoder=f"{mine}:Net", text_encoder=f"{mine}:Text", loss=f"{mine}:brier")
    for task in ("multiclass", "multilabel"):
        check_parts(config, task)
    assert torch.equal(torch.get_rng_state(), before)


def test_recomputation_is_refused_where_an_encoder_does_not_offer_it(mine: str) -> None:
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
def test_auto_recomputes_at_most_what_the_encoders_offer(mine: str, mode, name: str, most: str) -> None:
    assert all_checkpointing(configured(mode=mode, image_encoder=f"{mine}:{name}")) == most


@pytest.fixture
def model(mine: str, small_bert: Path):
    """A fused classifier of two encoders of the user's own, in eval mode."""
    torch.manual_seed(0)
    config = configured(image_encoder=f"{mine}:Net", text_encoder=f"{mine}:Text").model
    return build_classifier(config, 3, small_bert).eval()


def test_what_the_package_does_with_a_model_works_or_is_left_out(model, mine: str, small_bert: Path) -> None:
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
    found = footprint(config, 3, small_bert, "cpu")
    assert found is None or found.weights == 4 * sum(p.numel() for p in model.parameters())


def test_films_are_normalised_by_the_encoders_own_statistics(model) -> None:
    films = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert model.levels.normalise(films).flatten().tolist() == [-0.5, 1.5]


def test_a_studys_pooled_film_is_the_mean_of_what_the_encoder_pooled(model) -> None:
    films, tokens = torch.randn(3, 1, 32, 32), torch.tensor([[2, 7, 3]] * 2)
    rows = torch.tensor([[0, 1], [2, -1]])
    with torch.no_grad():
        features = model.encode(Inputs(films, tokens, torch.ones_like(tokens), view_rows=rows))
        _, pooled = model.image(films)
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
def test_which_names_of_text_encoders_are_the_users_own(name: str, own: bool) -> None:
    assert ModelConfig(text_encoder=name).has_own_text_encoder is own


def test_an_own_encoder_is_a_module_of_the_classifier(model) -> None:
    assert isinstance(model.image, nn.Module)
    assert {"image.tokens.weight", "text.embeddings.weight"} <= model.state_dict().keys()
