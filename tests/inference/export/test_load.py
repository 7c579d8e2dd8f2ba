"""An exported model predicts as its run did, opens without the run, and is refused if it is damaged."""

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

import cxr_dist
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.named import RUNS, named_run
from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.predict import predict_split
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.inference.description import Description
from cxr_dist.inference.export import export
from cxr_dist.inference.export_sums import write_sums
from cxr_dist.inference.given_case import Case
from cxr_dist.inference.opened import open_run
from cxr_dist.model.monte_carlo import McDropout

CPU = torch.device("cpu")


def test_an_exported_model_gives_the_probabilities_of_its_run_bit_for_bit(run_dir, exported):
    """Both compute the same batches with the same weights, and predictions.csv holds every digit."""
    trained, manifest = open_run(run_dir, CPU)
    model = cxr_dist.load(exported)
    config = dataclasses.replace(model.config, data=trained.config.data)
    mc = McDropout(passes=3)
    predictions = predict_split(
        model.classifier,
        config,
        manifest,
        "test",
        tokenizer=model.tokenizer,
        world=World(),
        mc=mc,
        calibrator=model.calibrator,
    )
    written = Predictions.read_csv(run_dir / "evaluation" / "test" / "predictions.csv")
    np.testing.assert_array_equal(predictions.probabilities, written.uncalibrated)
    np.testing.assert_array_equal(predictions.mc.mean, written.mc.mean)
    # Equality would prove little if all cases had the same probability.
    assert len(set(written.uncalibrated[:, 0])) == len(written)
    assert np.ptp(written.uncalibrated[:, 0]) > 0.01


def test_load_and_predict_give_the_evaluated_probabilities_without_run_shards_or_internet(
    source, run_dir, copy, cases_of, monkeypatch
):
    """Equal to 1e-6, because a single case sums in another order than a batch, and predict rounds to 6 digits."""
    written = Predictions.read_csv(run_dir / "evaluation" / "test" / "predictions.csv")
    cases = cases_of("multiclass")

    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    hidden = {path: path.with_name(path.name + "-away") for path in (run_dir, source / "multiclass-shards")}
    for path, away in hidden.items():
        path.rename(away)
    try:
        model = cxr_dist.load(copy)
        for key, raw, calibrated in list(zip(written.keys, written.uncalibrated, written.probabilities, strict=True))[
            :8
        ]:
            image, report = cases[key]
            answer = model.predict(image, report=report)
            assert list(answer["probability"]) == ["Sick", "Well"]
            np.testing.assert_allclose(list(answer["probability"].values()), raw, atol=1e-6)
            np.testing.assert_allclose(list(answer["calibrated"].values()), calibrated, atol=1e-6)
        spread = model.predict(str(image), report, mc_samples=5)
        assert spread["mc_low"]["Sick"] < spread["mc_mean"]["Sick"] < spread["mc_high"]["Sick"]
    finally:
        for path, away in hidden.items():
            away.rename(path)


@pytest.mark.parametrize(("mode", "task"), [("image", "multilabel"), ("text", "multiclass")])
def test_models_of_one_input_and_multilabel_models_are_exported_too(a_run, cases_of, tmp_path, mode, task):
    run = a_run(tmp_path / "run", mode, task)
    export(run, tmp_path / "model", with_onnx=False)
    shutil.rmtree(run)
    model = cxr_dist.load(tmp_path / "model")
    image, report = next(iter(cases_of(task).values()))
    given = {"image": image} if mode == "image" else {"report": report}
    likely = model.predict(**given)["probability"]
    assert list(likely) == list(model.classes)
    assert (sum(likely.values()) == pytest.approx(1)) == (task == "multiclass")
    assert (tmp_path / "model" / "text_encoder").exists() == (mode == "text")
    assert "has not been evaluated" in (tmp_path / "model" / "README.md").read_text()


def test_the_exported_graph_gives_the_same_probabilities(exported, cases_of):
    model = cxr_dist.load(exported)
    batch = model.batch([Case(image=i, report=r) for i, r in list(cases_of("multiclass").values())[:3]])
    inputs = {"images": batch.images, "input_ids": batch.tokens, "attention_mask": batch.attention_mask}
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    likely = session.run(["probabilities"], {name: values.numpy() for name, values in inputs.items()})[0]
    for row, (image, report) in zip(likely, cases_of("multiclass").values(), strict=False):
        expected = model.predict(image, report)["probability"]
        np.testing.assert_allclose(row, list(expected.values()), atol=1e-4)


@pytest.mark.parametrize("run", RUNS)
def test_reading_a_description_gives_the_settings_that_the_model_needs(run):
    config = named_run(run)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, text_encoder="/home/me/MiniLM"))
    description = Description(
        config=config,
        task="multiclass",
        classes=("α", "β"),
        image={"short_side": 256, "quality": 92},
        step=3,
        manifest_sha256="0" * 64,
        calibrator=Calibrator.of(2, temperature=1.25),
    )
    back = Description.from_plain(json.loads(description.to_json()))
    kept = dataclasses.replace(
        config.model,
        text_encoder="MiniLM",
        weights="",
        gradient_checkpointing=ModelConfig().gradient_checkpointing,
    )
    used = Config(run=config.run, model=kept, precision=config.precision, seed=config.seed)
    data = {"image_size": config.data.image_size} if config.model.uses_image else {}
    if config.model.uses_text:
        data |= {"text_sections": config.data.text_sections, "max_tokens": config.data.max_tokens}
    used = dataclasses.replace(used, data=dataclasses.replace(used.data, **data))
    assert back == dataclasses.replace(description, config=used)
    assert "/home/me" not in description.to_json()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "text_encoder/tokenizer.json", "text_encoder/config.json"])
def test_a_flipped_bit_is_refused(copy, name):
    flip(copy / name)
    with pytest.raises(UserError, match=f"{name} of the exported model does not have its sha256: copy"):
        cxr_dist.load(copy)


def test_changed_settings_and_other_weights_are_refused(copy):
    settings = (copy / "config.json").read_text()
    (copy / "config.json").write_text(settings.replace('"size": 32', '"size": 64'))
    with pytest.raises(UserError, match=r"config\.json of the exported model does not have its sha256"):
        cxr_dist.load(copy)
    (copy / "config.json").write_text(settings)
    tensors = load_file(copy / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors of the exported model does not have its sha256"):
        cxr_dist.load(copy)


def test_weights_of_another_network_are_refused_with_one_line(copy):
    settings = (copy / "config.json").read_text()
    (copy / "config.json").write_text(settings.replace('"fusion_dim": 32', '"fusion_dim": 64'))
    write_sums(copy)
    with pytest.raises(UserError, match="do not fit the network that this release of cxr_dist builds"):
        cxr_dist.load(copy)


def test_an_unknown_field_is_refused(copy):
    settings = (copy / "config.json").read_text()
    (copy / "config.json").write_text(settings.replace('"fusion_dim"', '"fusion_width"'))
    write_sums(copy)
    with pytest.raises(UserError, match=r"config\.json in .*copy: unknown field architecture\.fusion_width"):
        cxr_dist.load(copy)


@pytest.mark.parametrize("name", ["text_encoder/added_tokens.json", "vocab.txt", "notes.txt", "text_encoder/README.md"])
def test_a_file_that_is_not_listed_is_refused(copy, name):
    (copy / name).write_text("{}")
    with pytest.raises(UserError, match=rf"'{name}'\] is in the exported folder .* not in its SHA256SUMS: move it"):
        cxr_dist.load(copy)


def test_hidden_files_and_an_edited_card_are_accepted(copy):
    (copy / ".gitattributes").write_text("*.safetensors filter=lfs")
    (copy / "README.md").write_text("mine")
    cxr_dist.load(copy)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("config.json", '"precision": "fp32"', '"precision": "fp64"', "precision is fp64, but model.safetensors was"),
        ("model.safetensors", None, None, "model.safetensors of the exported model is damaged"),
        ("text_encoder/tokenizer.json", "{", "", "the tokenizer in .*text_encoder cannot be read"),
        ("text_encoder/tokenizer.json", '"WordPiece"', '"Other"', "the tokenizer in .*text_encoder cannot be read"),
        ("text_encoder/config.json", "{", "", "config.json does not describe a BERT-like encoder"),
        ("text_encoder/config.json", '"hidden_size": 64', '"hidden_size": "64"', "does not describe a BERT-like"),
        ("text_encoder/config.json", '"hidden_size": 64', '"hidden_size": 0', "does not describe a BERT-like"),
    ],
)  # fmt: skip
def test_damaged_files_whose_sums_were_made_again_are_refused_with_one_line(copy, name, old, new, message):
    path = copy / name
    if old is None:
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
    write_sums(copy)
    with pytest.raises(UserError, match=message) as refused:
        cxr_dist.load(copy)
    assert "\n" not in str(refused.value)


def test_a_vanished_tokenizer_is_refused_although_the_list_lacks_it_too(copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / "text_encoder" / name).unlink()
    write_sums(copy)
    with pytest.raises(UserError, match=r"text_encoder has neither tokenizer\.json nor vocab\.txt"):
        cxr_dist.load(copy)


def test_missing_files_are_named(copy, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "without-graph")
    (tmp_path / "without-graph" / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx of the exported model is missing"):
        cxr_dist.load(tmp_path / "without-graph")
    shutil.rmtree(copy / "text_encoder")
    with pytest.raises(UserError, match=r"text_encoder/config\.json of the exported model is missing"):
        cxr_dist.load(copy)
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"SHA256SUMS in .* is missing or damaged"):
        cxr_dist.load(copy)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "neither an exported model .* nor a run folder"),
        ("{", "is not JSON"),
        ('{"model_type": "bert"}', "does not describe a cxr_dist model"),
        (
            '{"format": "cxr_dist model", "format_version": 3, "cxr_dist_version": "9.0"}',
            "format version 3, .* 9.0",
        ),
    ],
)
def test_other_folders_and_newer_formats_get_different_messages(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=message):
        cxr_dist.load(tmp_path)


def test_a_missing_folder_is_refused():
    with pytest.raises(UserError, match="no folder nowhere"):
        cxr_dist.load("nowhere")


def test_the_package_itself_is_imported_without_torch():
    code = "import sys, cxr_dist; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
