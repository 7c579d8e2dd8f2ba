"""A model that was trained on studies takes one image or several, in any order, before and after export."""

import dataclasses
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import cxr_dist
from cxr_dist.config.named import named_run
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.passes import inputs_of
from cxr_dist.evaluate.predict import predict_split
from cxr_dist.format.manifest import load_manifest
from cxr_dist.inference.export import export
from cxr_dist.inference.given_case import Case
from cxr_dist.inference.opened import open_run
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress
from cxr_dist.run.folder import manifest_sha256
from cxr_dist.train.assembly import new_model, prepare_run_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["image", "fused"])
def run_dir(request: pytest.FixtureRequest, study_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder on studies with random weights; the fused run reads the section findings."""
    demo, folder = named_run("demo"), tmp_path_factory.mktemp("studies") / request.param
    data = dataclasses.replace(
        demo.data, shards=str(study_shards), image_size=64, workers=0, text_sections=("findings",)
    )
    model = dataclasses.replace(demo.model, mode=request.param)
    config = dataclasses.replace(demo, data=data, model=model, out=str(folder), precision="fp32")
    manifest = load_manifest(study_shards)
    prepare_run_folder(config, manifest, World())
    tensors = new_model(config, manifest, folder, CPU).state_dict()
    tensors["head.output.weight"] *= 20  # so that the predictions of the cases differ
    digest = manifest_sha256(study_shards)
    state = checkpoint.TrainingState(step=7, progress=Progress(), manifest_sha256=digest)
    checkpoint.save(folder, state, tensors, {})
    checkpoint.mark_best(folder, 7)
    return folder


@pytest.fixture
def study(study_shards: Path, tmp_path: Path) -> tuple[str, list[Path], str]:
    """A study of the test split with two images: its key, its images as stored, and its findings."""
    with tarfile.open(study_shards / "test-00000.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    key = next(name.split(".")[0] for name in contents if name.endswith(".1.jpg"))
    images = [tmp_path / "frontal.jpg", tmp_path / "lateral.jpg"]
    for path, name in zip(images, ("jpg", "1.jpg"), strict=True):
        path.write_bytes(contents[f"{key}.{name}"])
    return key, images, json.loads(contents[f"{key}.json"])["text"]["findings"]


def probabilities(model, images, report) -> np.ndarray:
    return np.array(list(model.predict(images, report)["probability"].values()))


def test_a_study_from_files_is_predicted_like_the_same_study_in_the_shards(run_dir, study):
    key, images, findings = study
    trained, manifest = open_run(run_dir, CPU)
    predictions = predict_split(
        trained.classifier,
        trained.config,
        manifest,
        "test",
        tokenizer=trained.tokenizer,
        world=World(),
    )
    report = findings if trained.config.model.uses_text else ""
    from_files = probabilities(trained, images, report)
    # The images are compressed a second time, which changes them a little; leaving one out changes more.
    stored = predictions.probabilities[predictions.keys.index(key)]
    assert np.abs(from_files - stored).max() < 0.03
    np.testing.assert_allclose(probabilities(trained, images[::-1], report), from_files, rtol=0, atol=1e-5)
    assert np.abs(probabilities(trained, images[0], report) - from_files).max() > 0.001


def test_the_picture_shows_both_images_with_a_heat_map_over_both(cxr_dist, run_dir, study, tmp_path):
    _, images, findings = study
    flags = list(itertools.chain.from_iterable(("--image", image) for image in images))
    flags += ["--report", findings] if run_dir.name == "fused" else []
    status, printed, _ = cxr_dist("predict", run_dir, *flags, "--mc-samples", "3", "--out", tmp_path / "look.png")
    assert status == 0
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    heat = np.array(json.loads((tmp_path / "look.json").read_text())["heat_map"])
    assert heat.shape == (2, 4)  # 2 × 2 image tokens of each image
    assert heat.max() == 1
    assert "mc_mean" in json.loads(printed)


def test_the_heat_map_covers_the_images_that_were_given(run_dir, study):
    trained, _ = open_run(run_dir, CPU)
    _, images, findings = study
    report = findings if trained.config.model.uses_text else ""
    for used, width in ((images, 4), (images[:1], 2)):
        inputs = inputs_of(trained.classifier, trained.batch([Case.of(used, report)]))
        assert grad_cam(trained.classifier, inputs, 0).shape == (2, width)


def test_too_many_images_are_refused(run_dir, study):
    trained, _ = open_run(run_dir, CPU)
    _, images, _ = study
    with pytest.raises(UserError, match="trained on at most 2 images of a study, but 3 were given"):
        trained.predict([*images, images[0]])


def test_an_exported_study_model_predicts_as_its_run_but_has_no_graph(run_dir, study, tmp_path):
    _, images, findings = study
    with pytest.raises(UserError, match="several images, which the ONNX graph cannot take"):
        export(run_dir, tmp_path / "graph", with_onnx=True)
    assert not (tmp_path / "graph").exists()
    export(run_dir, tmp_path / "model", with_onnx=False)
    report = findings if run_dir.name == "fused" else ""
    exported, trained = cxr_dist.load(tmp_path / "model"), open_run(run_dir, CPU)[0]
    assert exported.predict(images, report) == trained.predict(images, report)


def test_a_model_trained_on_single_images_takes_one_image(run_of, images):
    trained, _ = open_run(run_of("image"), CPU)
    with pytest.raises(UserError, match="trained on one image, but 2 were given"):
        trained.predict([images / "smith-0.jpg", images / "smith-1.jpg"])
