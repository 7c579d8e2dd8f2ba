"""Training finds the weights bundle, checks it, and refuses it if a single bit is wrong."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from stand_in_hub import NAME, Hub

from cxr_dist.errors import UserError
from cxr_dist.model.classifier import load_text_encoder
from cxr_dist.model.text_encoder import TextEncoder
from cxr_dist.model.weights import bundle_folder, component_weights, resolve_text_encoder


def test_a_flipped_bit_in_the_bundle_is_detected_when_it_is_loaded(hub: Hub, tmp_path: Path) -> None:
    hub.fetch(tmp_path)
    for component, load in ((NAME, load_text), ("densenet121", load_image)):
        file = tmp_path / component / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        load_file(file)  # safetensors does not detect it
        with pytest.raises(UserError, match=r"model\.safetensors .* damaged: remove .*cxr-dist fetch"):
            load(tmp_path)


def load_text(bundle: Path) -> None:
    folder = resolve_text_encoder(NAME, bundle)
    load_text_encoder(TextEncoder(folder), folder)


def load_image(bundle: Path) -> None:
    component_weights(bundle, "densenet121")


def test_the_error_for_a_missing_text_encoder_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cxr-dist fetch.*--model\.weights DIR.*--model\.pretrained false"):
        resolve_text_encoder(NAME, tmp_path)


def test_a_local_folder_has_priority_over_the_bundle(bert_folder: Path, tmp_path: Path) -> None:
    assert resolve_text_encoder(str(bert_folder), tmp_path) == bert_folder


def test_the_option_and_then_the_environment_choose_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_DIST_WEIGHTS", "/environment")
    assert bundle_folder("/option") == Path("/option")
    assert bundle_folder("") == Path("/environment")
    monkeypatch.delenv("CXR_DIST_WEIGHTS")
    assert bundle_folder("") == Path.home() / ".cache" / "cxr_dist" / "weights"
