"""Encoders `hf:DIR` in the layouts of RAD-DINO (Transformers) and of BiomedCLIP's vision tower (open_clip)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModel, Dinov2Config, SwinConfig, ViTConfig

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.model.classifier import build_classifier
from cxr_dist.model.encoder_kind import ImageEncoderKind
from cxr_dist.model.image_encoder import IMAGE_FOLDER, image_encoder_kind
from cxr_dist.model.inputs import Inputs

SIZE = 56
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "intermediate_size": 64}
CONFIGS = {
    "rad-dino": Dinov2Config(**SMALL, image_size=SIZE, patch_size=14),
    "vit": ViTConfig(**SMALL, image_size=SIZE, patch_size=14),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=7, image_size=SIZE, patch_size=4),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Small networks with random weights in the layout of each name, and `preprocessor_config.json` as RAD-DINO's."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("hub")
    for name, config in CONFIGS.items():
        AutoModel.from_config(config).save_pretrained(root / name)
        grey = {"image_mean": [0.53] * 3, "image_std": [0.26] * 3}
        (root / name / "preprocessor_config.json").write_text(json.dumps(grey))
    timm = pytest.importorskip("timm", reason="needs timm: pip install 'cxr_dist[encoders]'")
    (root / "biomedclip").mkdir()
    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    plain = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision}, "preprocess_cfg": {"mean": [0.48, 0.46, 0.41]}}
    plain["preprocess_cfg"]["std"] = [0.27, 0.26, 0.28]
    (root / "biomedclip" / "open_clip_config.json").write_text(json.dumps(plain))
    trunk = timm.create_model("test_vit", num_classes=0).state_dict()
    weights = {f"visual.trunk.{key}": tensor for key, tensor in trunk.items()}
    weights |= {"visual.head.proj.weight": torch.randn(16, 64), "text.proj.weight": torch.randn(2, 2)}
    save_file(weights, root / "biomedclip" / "open_clip_model.safetensors")
    return root


def kind_and_config(folder: Path, size: int = SIZE, **changes) -> tuple[ImageEncoderKind, ModelConfig]:
    name = f"hf:{folder}"
    return image_encoder_kind(name, image_size=size), ModelConfig(mode="image", image_encoder=name, **changes)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_backbone_of_transformers_gives_its_own_features_of_a_repeated_grey_image(folders: Path, name: str) -> None:
    kind, config = kind_and_config(folders / name)
    encoder = kind.build(config).eval()
    kind.load(encoder, folders)
    images = torch.randn(2, 1, SIZE, SIZE)
    expected = AutoModel.from_pretrained(folders / name)(images.repeat(1, 3, 1, 1)).last_hidden_state
    tokens, pooled = encoder(images)
    classes = 0 if name == "swin" else 1
    torch.testing.assert_close(tokens, expected[:, classes:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, expected[:, 0] if classes else expected.mean(1), rtol=1e-4, atol=1e-5)
    assert encoder.channels == 1
    assert kind.levels == (0.53, 0.26)


@torch.no_grad()
def test_a_vision_tower_of_open_clip_gives_the_features_of_its_trunk(folders: Path) -> None:
    import timm

    kind, config = kind_and_config(folders / "biomedclip", 160)
    encoder = kind.build(config).eval()
    kind.load(encoder, folders)
    weights = load_file(folders / "biomedclip" / "open_clip_model.safetensors")
    trunk = timm.create_model("test_vit", num_classes=0).eval()
    prefix = "visual.trunk."
    trunk.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    images = torch.randn(2, 1, 160, 160)
    torch.testing.assert_close(encoder(images)[1], trunk(images.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-5)
    assert kind.levels == (0.45, 0.27)
    assert encoder.pooling == "class token"


@pytest.mark.parametrize("name", ["rad-dino", "vit"])
def test_position_embeddings_are_resized_to_other_images(folders: Path, name: str) -> None:
    """Bicubic and with antialiasing, as timm resizes them; the class token's embedding is kept."""
    kind, config = kind_and_config(folders / name, 28)
    encoder = kind.build(config).eval()
    kind.load(encoder, folders)
    key = "embeddings.position_embeddings"
    published = load_file(folders / name / "model.safetensors")[key]
    ours = encoder.state_dict()[f"network.{key}"]
    grid = published[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = functional.interpolate(grid, size=(2, 2), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(ours, torch.cat([published[:, :1], expected], 1))
    assert encoder(torch.randn(1, 1, 28, 28))[0].shape == (1, 4, 32)


def test_what_stands_around_encoders_works_with_a_backbone_of_transformers(folders: Path) -> None:
    kind, config = kind_and_config(folders / "rad-dino", gradient_checkpointing="image")
    torch.manual_seed(0)
    model = build_classifier(config, 3, None, kind)
    images = torch.randn(2, 1, SIZE, SIZE)
    model.train()(images, None, None).sum().backward()
    without = [key for key, value in model.named_parameters() if value.grad is None]
    assert without == [key for key, value in model.named_parameters() if not value.requires_grad]
    assert without == ["image.network.embeddings.mask_token"]  # used by pretraining alone
    heat = [grad_cam(model.eval(), Inputs(images[:1]), index) for index in range(3)]
    assert all(one.shape == (4, 4) for one in heat)
    assert any(one.max() == 1 for one in heat)


def test_a_kept_folder_replaces_the_given_one(folders: Path, tmp_path: Path) -> None:
    kind, config = kind_and_config(folders / "rad-dino")
    (tmp_path / IMAGE_FOLDER).mkdir()
    for file in kind.files:
        shutil.copyfile(file, tmp_path / IMAGE_FOLDER / file.name)
    again = image_encoder_kind("hf:rad-dino", image_size=SIZE, folder=tmp_path)
    assert again.levels == kind.levels
    assert again.build(config).state_dict().keys() == kind.build(config).state_dict().keys()
    with pytest.raises(UserError, match=r"no model.safetensors.*--model.image-weights FILE"):
        again.weights(tmp_path)


def test_folders_that_cannot_be_used_are_refused(folders: Path, tmp_path: Path) -> None:
    def refused(words: str, size: int = SIZE, **files) -> None:
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            build(size)

    def build(size: int) -> None:
        kind, config = kind_and_config(tmp_path, size)
        kind.build(config)

    refused("expected a folder with config.json and model.safetensors, or with open_clip_config.json")
    refused("does not describe a vision backbone", config={"model_type": "bert"})
    refused("does not describe a vision backbone", config={"model_type": "dinov2", "hidden_size": "many"})
    small = CONFIGS["rad-dino"].to_dict()
    refused("60 × 60 pixels .ValueError.*a multiple of its patches of 14 pixels", 60, config=small)
    refused("the deviation above 0", config=small, preprocessor_config={"image_mean": [0.5], "image_std": [0]})
    refused("names no timm_model_name", open_clip_config={"model_cfg": {"vision_cfg": {"layers": 12}}})
    (tmp_path / "wrong").mkdir()
    shutil.copyfile(folders / "vit" / "model.safetensors", tmp_path / "wrong" / "model.safetensors")
    shutil.copyfile(folders / "rad-dino" / "config.json", tmp_path / "wrong" / "config.json")
    kind, config = kind_and_config(tmp_path / "wrong")
    with pytest.raises(UserError, match="image encoder's weights do not fit its config"):
        kind.load(kind.build(config), tmp_path)
