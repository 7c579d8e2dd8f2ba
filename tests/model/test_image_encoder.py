"""The one-channel DenseNet computes the same as torchvision's three-channel one on a repeated grey image."""

import copy

import pytest
import torch
from torchvision.models import densenet121

from cxr_dist.config.model import ModelConfig
from cxr_dist.model.image_encoder import IMAGENET, ImageEncoder, grey_weights, image_encoder_kind


def test_grey_stem_equals_rgb_stem_on_a_repeated_image() -> None:
    rgb, grey = densenet121(weights=None), ImageEncoder("densenet121")
    for module in rgb.modules():  # running statistics that differ from their initial values
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    grey.load_state_dict(grey_weights(rgb.state_dict()))
    images = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.relu(rgb.double().eval().features(images.repeat(1, 3, 1, 1)))
        tokens, pooled = grey.double().eval()(images)
    torch.testing.assert_close(tokens.transpose(1, 2).unflatten(2, (2, 2)), expected)
    torch.testing.assert_close(pooled, expected.mean((2, 3)))


def test_translating_weights_a_second_time_changes_nothing() -> None:
    once = grey_weights(densenet121(weights=None).state_dict())
    twice = grey_weights(once)
    assert once.keys() == twice.keys() == ImageEncoder("densenet121").state_dict().keys()
    assert all(torch.equal(twice[name], tensor) for name, tensor in once.items())
    assert grey_weights({"features.norm5.bias": once["features.norm5.bias"]}).keys() == {"features.norm5.bias"}


@pytest.mark.parametrize(("name", "width"), [("densenet121", 1024), ("densenet-narrow", 108)])
def test_tokens_cover_the_image_in_steps_of_32_pixels(name: str, width: int) -> None:
    encoder = ImageEncoder(name).eval()
    with torch.no_grad():
        tokens, pooled = encoder(torch.randn(1, 1, 64, 96))
    assert encoder.width == width
    assert tokens.shape == (1, 6, width)
    assert pooled.shape == (1, width)


def test_tokens_are_ordered_row_by_row() -> None:
    encoder, images = ImageEncoder("densenet-narrow").eval(), torch.zeros(1, 1, 256, 256)
    with torch.no_grad():
        before, _ = encoder(images)
        images[0, 0, 16:48, 224:] = 4.0  # the upper right corner, token 7 of the first row of 8
        after, _ = encoder(images)
    assert (after - before).abs().sum(-1).argmax() in (7, 15)


def test_normalise_maps_bytes_to_imagenets_grey_scale() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    expected = torch.tensor(
        [-IMAGENET.mean / IMAGENET.deviation, (1 - IMAGENET.mean) / IMAGENET.deviation], dtype=torch.float64
    )
    torch.testing.assert_close(IMAGENET.normalise(images, torch.float64).flatten(), expected)
    assert images.flatten().tolist() == [0, 255]


def whole_gradient(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


# BatchNorm over few values amplifies the rounding of float32. float64 shows that nothing but rounding differs.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_channels_last_computes_the_same_as_the_usual_layout(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    ours = ImageEncoder("densenet-narrow").to(dtype).train()
    usual = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    kernel = "features.denseblock1.denselayer1.conv2.weight"
    assert ours.get_parameter(kernel).is_contiguous(memory_format=torch.channels_last)
    assert usual.get_parameter(kernel).is_contiguous()
    images = torch.randn(8, 1, 64, 64, dtype=dtype)
    for encoder in (ours, usual):
        encoder(images)[0].square().sum().backward()
    expected, gradient = whole_gradient(usual), whole_gradient(ours)
    assert 0 < expected.norm() < torch.inf
    assert (gradient - expected).norm() <= tolerance * expected.norm()
    with torch.no_grad():  # in eval mode, with the running statistics of that pass
        torch.testing.assert_close(ours.eval()(images)[0], usual.eval()(images)[0], rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_a_densenet_of_torchxrayvision_gives_the_features_of_its_own_class() -> None:
    """With its own scale: `normalize` maps the bytes 0 to 255 to -1024 to 1024."""
    xrv = pytest.importorskip("torchxrayvision", reason="needs torchxrayvision")
    reference = xrv.models.DenseNet(weights=None)
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    name = "torchxrayvision:densenet121-res224-all"
    kind = image_encoder_kind(name)
    encoder = kind.build(ModelConfig(mode="image", image_encoder=name)).double().eval()
    encoder.load_state_dict(kind.translate(reference.state_dict()))
    images = torch.randint(256, (2, 1, 64, 64), dtype=torch.uint8)
    scaled = torch.from_numpy(xrv.datasets.normalize(images.numpy(), maxval=255))
    ours = kind.levels.normalise(images, torch.float64)
    torch.testing.assert_close(ours, scaled.double(), rtol=1e-6, atol=1e-4)  # theirs is float32
    torch.testing.assert_close(encoder(ours)[1], reference.double().eval().features2(ours))
