"""One matrix of tests over image encoders of timm: what each of them promises holds for all of them.

Images have 64 pixels. The networks have their full depth, because their depth is not an option of timm; they take
about a second each. convnext_base, which differs from convnext_tiny in size only, is in test_encoder_table.py.
"""

import copy
import dataclasses
from functools import cache

import pytest
import torch
from torch import nn

from cxr_dist.config.model import ModelConfig
from cxr_dist.config.named import named_run
from cxr_dist.distributed.sync_batchnorm import SyncBatchNorm, synchronise_batchnorm
from cxr_dist.errors import UserError
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.model.backbone import Backbone
from cxr_dist.model.classifier import build_classifier
from cxr_dist.model.image_encoder import image_encoder_kind, kind_of
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout, mc_logits
from cxr_dist.model.own_parts import check_parts
from cxr_dist.train.flops import count_flops
from cxr_dist.train.memory.footprint import footprint

timm = pytest.importorskip("timm", reason="needs timm: pip install 'cxr_dist[encoders]'")

NAMES = (
    "resnet50",
    "densenet121",
    "tf_efficientnet_lite0",
    "convnext_tiny",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "maxvit_tiny_tf_224",
)
SIZE = 64
each = pytest.mark.parametrize("name", NAMES)


def settings(name: str, **changes) -> ModelConfig:
    return ModelConfig(mode="image", image_encoder=f"timm:{name}", pretrained=False, **changes)


def encoder_of(name: str, size: int = SIZE, **changes) -> Backbone:
    torch.manual_seed(0)
    return image_encoder_kind(f"timm:{name}", image_size=size).build(settings(name, **changes))


def configured(name: str, **changes):
    config = named_run("demo")
    data = dataclasses.replace(config.data, image_size=SIZE, micro_batch=2)
    return dataclasses.replace(config, data=data, precision="fp32", model=settings(name, **changes))


@cache
def rgb(name: str) -> nn.Module:
    """timm's own network for colours, with its random weights and with statistics that differ from the initial ones."""
    torch.manual_seed(1)
    size = {"img_size": SIZE} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    network = timm.create_model(name, num_classes=10, **size)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.double().eval()


@each
@torch.no_grad()
def test_one_grey_channel_computes_what_the_rgb_network_computes_for_a_repeated_image(name: str) -> None:
    network, encoder = rgb(name), encoder_of(name).double().eval()
    kind = image_encoder_kind(f"timm:{name}", image_size=SIZE)
    weights = kind.translate(network.state_dict())
    encoder.load_state_dict(weights)
    assert kind.translate(weights).keys() == weights.keys()  # translated weights stay as they are
    images = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64)
    tokens, pooled = encoder(images)
    features = network.forward_features(images.repeat(1, 3, 1, 1))
    torch.testing.assert_close(pooled, network.forward_head(features, pre_logits=True))
    layout = {4: features.flatten(2).mT, 3: features[:, getattr(network, "num_prefix_tokens", 0) :]}[features.dim()]
    expected = features.flatten(1, 2) if name.startswith("swin") else layout
    torch.testing.assert_close(tokens, expected)
    assert encoder.channels == 1
    assert pooled.shape == (2, encoder.width)
    assert tokens.shape == (2, 16 if name.startswith("vit") else 4, encoder.width)


@each
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    images = torch.randn(2, 1, SIZE, SIZE)
    gradients = []
    for setting in ("off", "image"):
        encoder = encoder_of(name, gradient_checkpointing=setting).double().train()
        encoder(images.double())[1].square().sum().backward()
        gradients.append({key: value.grad for key, value in encoder.named_parameters()})
    assert image_encoder_kind(f"timm:{name}").recomputes
    torch.testing.assert_close(*gradients)


@each
def test_memory_and_operations_are_predicted(name: str) -> None:
    config = configured(name)
    plain = footprint(config, 3, None, "cpu")
    less = footprint(configured(name, gradient_checkpointing="image"), 3, None, "cpu")
    assert plain is not None
    assert less is not None
    assert less.later < plain.later
    with torch.device("meta"):
        model = build_classifier(config.model, 3, None, kind_of(config))
    flops = count_flops(model, SIZE)
    assert flops is not None
    assert flops.image > 1e7


@each
def test_grad_cam_covers_the_image_and_passes_of_dropout_leave_the_encoder_alone(name: str) -> None:
    config = configured(name)
    torch.manual_seed(0)
    model = build_classifier(config.model, 3, None, kind_of(config)).eval()
    images = torch.randn(1, 1, SIZE, SIZE)
    heat = [grad_cam(model, Inputs(images), index) for index in range(3)]
    side = 4 if name.startswith("vit") else 2
    assert all(one.shape == (side, side) for one in heat)
    assert any(one.max() == 1 for one in heat)
    with torch.no_grad():
        features = model.encode(Inputs(images))
        ids = torch.zeros(1, dtype=torch.int64)
        head, whole = (
            mc_logits(model, Inputs(images), features, ids, McDropout(passes=3, scope=scope), seed=1)
            for scope in ("head", "all")
        )
    assert torch.equal(head, whole)  # the encoder has no dropout, and no stochastic depth


@each
def test_frozen_encoders_learn_nothing(name: str) -> None:
    config = configured(name)
    model = build_classifier(config.model, 3, None, kind_of(config))
    before = copy.deepcopy(model.image.state_dict())
    model.set_encoders_frozen(True)
    model.train()(torch.randn(2, 1, SIZE, SIZE), None, None).sum().backward()
    assert all(parameter.grad is None for parameter in model.image.parameters())
    torch.testing.assert_close(model.image.state_dict(), before, rtol=0, atol=0)


@each
def test_whatever_gets_a_gradient_is_used(name: str, small_bert) -> None:
    """DistributedDataParallel would wait for others for ever."""
    images = torch.randn(2, 1, SIZE, SIZE)
    for fusion, output in (("tokens", 0), ("pooled", 1)):
        config = dataclasses.replace(settings(name), mode="fused", fusion=fusion)
        encoder = image_encoder_kind(f"timm:{name}", image_size=SIZE).build(config)
        encoder.requires_grad_(False)
        encoder.requires_grad_(True)
        encoder(images)[output].sum().backward()
        for key, value in encoder.named_parameters():
            assert (value.grad is not None) == value.requires_grad, key


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224"])
def test_weights_for_another_size_of_images_are_resized(name: str) -> None:
    published = timm.create_model(name, num_classes=10).state_dict()
    kind = image_encoder_kind(f"timm:{name}", image_size=SIZE)
    encoder = kind.build(settings(name))
    encoder.load_state_dict(kind.translate(published))
    tokens, _ = encoder.eval()(torch.randn(1, 1, SIZE, SIZE))
    assert tokens.isfinite().all()


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("vit_small_patch16_224", 100, "100 × 100 pixels .16 × 16 patches do not cover them"),
        ("maxvit_tiny_tf_224", 80, "does not take images of 80 × 80 pixels.*weights are for 224"),
    ],
)
def test_an_impossible_size_is_refused_before_a_run(name: str, size: int, words: str) -> None:
    config = configured(name)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=size))
    with pytest.raises(UserError, match=words):
        check_parts(config, "multilabel")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnet5", r"unknown image encoder 'timm:resnet5' \(did you mean 'resnet50"),
        ("timm:maxvit_tiny", r"did you mean 'maxvit_tiny_.*'\?"),
        ("timm:resnet50.a1_in2k", r"did you mean 'resnet50.a1_in1k'\?"),
        ("torchxrayvision:densenet121-res224-al", r"did you mean 'densenet121-res224-all'\?"),
        ("timn", r"expected one of: densenet121, densenet-narrow, timm:NAME, hf:DIR, torchxrayvision:WEIGHTS, MODULE"),
    ],
)
def test_a_mistyped_name_is_answered_with_names(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        image_encoder_kind(name)


def test_weights_that_are_not_at_hand_and_dropout_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"--model.image-weights FILE, .*--model.pretrained false"):
        image_encoder_kind("timm:resnet50").load(nn.Identity(), tmp_path)
    with pytest.raises(UserError, match=r"--model.image-dropout 0 with timm: encoders"):
        encoder_of("resnet50", image_dropout=0.1)


def test_a_network_whose_first_layer_is_not_exact_for_grey_gets_the_image_three_times() -> None:
    name = "tresnet_m"  # rearranges pixels and colours before its first kernel
    encoder = encoder_of(name).eval()
    assert encoder.channels == 3
    images = torch.randn(1, 1, SIZE, SIZE)
    with torch.no_grad():
        expected = encoder.network.forward_features(images.repeat(1, 3, 1, 1))
        torch.testing.assert_close(encoder(images)[0], expected.flatten(2).mT)


@pytest.mark.parametrize("training", [True, False])
def test_synchronised_batchnorm_keeps_the_activation_that_timm_puts_into_a_batchnorm_layer(training: bool) -> None:
    plain = encoder_of("tf_efficientnet_lite0").double().train(training)
    synchronised = copy.deepcopy(plain)
    synchronise_batchnorm(synchronised, 1)
    assert any(isinstance(part, SyncBatchNorm) and len(list(part.children())) for part in synchronised.modules())
    images = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64)
    torch.testing.assert_close(synchronised(images)[1], plain(images)[1])
    assert synchronised.state_dict().keys() == plain.state_dict().keys()
