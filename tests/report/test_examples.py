"""Examples on the page: the extreme cases, from the evaluated shards, only on request, and marked as patient data."""

import base64
import contextlib
import dataclasses
import json
import re
import stat
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import needs_chromium, show, too_wide
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions, make_run, softmax

from cxr_dist.cli.main import main
from cxr_dist.data.store import ShardStore
from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.uncertainty import summarise
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import load_manifest
from cxr_dist.inference.evaluation import compare_runs
from cxr_dist.report.examples import RunExamples, examples_of, most_uncertain, most_wrong
from cxr_dist.report.page import render_page, write_page

SECTIONS = ("findings", "indication")


@pytest.fixture(scope="module")
def samples(tiny_shards: Path) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Key -> (stored image, report) of the test split."""
    with contextlib.closing(ShardStore(tiny_shards, load_manifest(tiny_shards), "test")) as store:
        places = [(s, i) for s, entry in enumerate(store.shards) for i in range(entry.samples)]
        read = [store.read(*place) for place in places]
    return {sample["__key__"]: (sample["jpg"], json.loads(sample["json"])["text"]) for sample in read}


def pixels(jpeg: bytes) -> np.ndarray:
    """Grey values [H, W] as float."""
    return cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_GRAYSCALE).astype(float)


def predictions_on(shards: Path, seed: int = 0) -> Predictions:
    """Synthetic predictions for the samples of the test split."""
    manifest, random = load_manifest(shards), np.random.default_rng(seed)
    with contextlib.closing(ShardStore(shards, manifest, "test")) as store:
        index = np.concatenate([store.index(shard) for shard in range(len(store.shards))])
    shape = (len(index), len(manifest.classes))
    logits = random.normal(0, 1, shape) + np.eye(shape[1])[index["label"][:, 0]]
    return Predictions(
        task="multiclass",
        classes=manifest.classes,
        keys=[key.decode() for key in index["key"]],
        patients=[patient.decode() for patient in index["patient"]],
        labels=index["label"].copy(),
        probabilities=softmax(logits),
        mc=summarise(softmax(logits + random.normal(0, 0.5, (4, *shape))), "multiclass"),
    )


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Image-only, report-only and fused runs that were evaluated on the tiny shards, which have since moved."""
    folder, digest = tmp_path_factory.mktemp("runs"), sha256_of(tiny_shards / "manifest.json")
    return [
        make_run(
            folder / mode,
            predictions_on(tiny_shards, seed),
            mode=mode,
            sections=SECTIONS,
            manifest_sha256=digest,
        )
        for seed, mode in enumerate(("image", "text", "fused"))
    ]


@pytest.fixture(scope="module")
def page(runs: list[Path], tiny_shards: Path) -> str:
    comparison = compare(runs, n_bootstrap=10)
    return render_page(comparison, [examples_of(run, 2, str(tiny_shards)) for run in comparison.runs])


@given(
    st.sampled_from(["multiclass", "multilabel"]),
    st.integers(1, 40),
    st.integers(0, 12),
    st.integers(0, 99),
    st.sampled_from([0, 3]),
)
def test_chosen_cases_are_the_most_extreme_ones(task: str, n: int, count: int, seed: int, passes: int) -> None:
    predictions = make_predictions(task=task, n=n, seed=seed, data=seed, passes=passes)
    entropy = -predictions.probabilities * np.log(predictions.probabilities)
    if task == "multilabel":
        entropy += -(1 - predictions.probabilities) * np.log1p(-predictions.probabilities)
    uncertainty = predictions.mc.predictive_entropy if predictions.mc else entropy.sum(axis=1)
    chosen = most_uncertain(predictions, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, n)
    assert uncertainty[chosen] == pytest.approx(np.sort(uncertainty)[::-1][:count])

    truth = np.eye(5)[predictions.labels[:, 0]] if task == "multiclass" else predictions.labels * 1.0
    error = np.where(truth == -1, 0, np.abs(truth - predictions.probabilities))
    distance = (error * truth if task == "multiclass" else error).max(axis=1)
    known = np.ones_like(truth, dtype=bool) if task == "multiclass" else truth != -1
    predicted = np.eye(5)[predictions.predicted] if task == "multiclass" else predictions.predicted
    wrong = ((predicted != truth) & known).any(axis=1)
    chosen = most_wrong(predictions, count)
    assert wrong[chosen].all()
    assert distance[chosen] == pytest.approx(np.sort(distance[wrong])[::-1][:count])


def test_a_case_has_the_image_and_the_sections_of_its_sample(
    runs: list[Path], tiny_shards: Path, samples: dict[str, tuple[bytes, dict[str, str]]]
) -> None:
    run = compare(runs[2:]).runs[0]
    examples = examples_of(run, 3, str(tiny_shards))
    for example in (*examples.most_uncertain, *examples.most_wrong):
        row = run.predictions.keys.index(example.key)
        report = samples[example.key][1]
        image = pixels(base64.b64decode(example.images[0].partition(",")[2]))
        distance = {key: np.abs(image - pixels(jpeg)).mean() for key, (jpeg, _) in samples.items()}
        assert min(distance, key=distance.__getitem__) == example.key
        assert example.sections == {name: report[name] for name in SECTIONS if name in report}
        assert example.truth == run.predictions.classes[run.predictions.labels[row, 0]]
        assert [each.probability for each in example.classes] == run.predictions.probabilities[row].tolist()
        assert example.correct == (example.prediction == example.truth)
    assert not any(example.correct for example in examples.most_wrong)


def test_multilabel_cases_show_unknown_labels(tiny_shards: Path, tmp_path: Path) -> None:
    multiclass = predictions_on(tiny_shards)
    labels = np.eye(5, dtype=np.int16)[multiclass.labels[:, 0]]
    labels[:, 1], labels[:, 2] = -1, 1
    several = dataclasses.replace(multiclass, task="multilabel", labels=labels, mc=None)
    digest = sha256_of(tiny_shards / "manifest.json")
    comparison = compare([make_run(tmp_path / "a", several, manifest_sha256=digest)], n_bootstrap=10)
    examples = examples_of(comparison.runs[0], 2, str(tiny_shards))
    example, row = examples.most_wrong[0], several.keys.index(examples.most_wrong[0].key)
    words = {1: "yes", 0: "no", -1: "unknown"}
    assert [each.label for each in example.classes] == [words[label] for label in labels[row].tolist()]
    names = [each.name for each in example.classes]
    assert example.truth == ", ".join(name for name, label in zip(names, labels[row], strict=True) if label == 1)
    above = [name for name, p in zip(names, several.probabilities[row], strict=True) if p >= 0.5]
    assert example.prediction == (", ".join(above) or "none")
    assert example.correct is False
    assert "Mean ± SD of the passes" not in render_page(comparison, [examples])


def test_a_large_image_is_downscaled(runs: list[Path], tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_dist.report.examples._LONGEST_SIDE", 32)
    [example] = examples_of(compare(runs[:1]).runs[0], 1, str(tiny_shards)).most_uncertain
    assert max(pixels(base64.b64decode(example.images[0].partition(",")[2])).shape) == 32


def test_without_examples_the_page_contains_no_data_of_a_case(
    runs: list[Path], page: str, samples: dict[str, tuple[bytes, dict[str, str]]]
) -> None:
    comparison = compare(runs, n_bootstrap=10)
    rendered = render_page(comparison)
    files = re.findall(r"data:[a-z/+;=0-9-]+;base64,([A-Za-z0-9+/=]+)", rendered)  # tables and figures to save
    assert files
    plain = "\n".join([rendered, *(base64.b64decode(file).decode() for file in files)])
    patients = comparison.runs[0].predictions.patients
    texts = [text for _, report in samples.values() for text in report.values()]
    secrets = [*samples, *patients, *texts]
    assert len(texts) > 10
    assert not [secret for secret in secrets if secret in plain]
    assert not [mark for mark in ("data:image/jpeg", "<img", "img-src", "individual cases") if mark in plain]
    assert "data:image/jpeg" in page  # the page with examples contains what is searched for
    assert [key for key in samples if key in page]
    assert [text for text in texts if text in page]
    assert not [patient for patient in patients if patient in page]


def test_each_run_shows_only_the_sections_that_it_reads(
    runs: list[Path], page: str, samples: dict[str, tuple[bytes, dict[str, str]]]
) -> None:
    image, text, fused = (part.partition("</details>")[0] for part in page.split("<details open>")[1:])
    assert "<dt>" not in image
    assert image.count("<img") == text.count("<img") == fused.count("<img") == 4
    assert text.count("Not read by this run") == 4
    assert "Not read by this run" not in image + fused
    assert fused.index("<dt>Findings") < fused.index("<dt>Indication")
    assert "<dt>Impression" not in page


@pytest.mark.parametrize("made_data", [True, False])
def test_the_banner_states_what_the_page_contains(runs: list[Path], made_data: bool) -> None:
    run = compare(runs[:1]).runs[0]
    run = dataclasses.replace(run, evaluation=run.evaluation | {"made_data": made_data})
    comparison = dataclasses.replace(compare(runs[:1]), runs=(run,))
    page = render_page(comparison, [RunExamples(most_uncertain=(), most_wrong=())])
    assert ("<strong>Patient data.</strong> This page shows images and report text" in page) is not made_data
    assert ("<strong>Synthetic cases.</strong>" in page) is made_data
    assert page.index('class="private"') < page.index("<h1>")
    assert "Every prediction of this run is correct." in page


def test_only_the_owner_may_read_a_page_with_cases(runs: list[Path], tiny_shards: Path, tmp_path: Path) -> None:
    comparison, out = compare(runs[:1]), tmp_path / "report.html"
    for examples, mode in (([], 0o644), ([examples_of(comparison.runs[0], 1, str(tiny_shards))], 0o600)):
        write_page(comparison, out, examples)
        assert stat.S_IMODE(out.stat().st_mode) == mode
    assert "data:image" in out.read_text()


def test_other_shards_are_refused(runs: list[Path], tmp_path: Path) -> None:
    run = compare(runs[:1]).runs[0]
    with pytest.raises(UserError, match=r"folder of image contains a different manifest\.json: .*--shards"):
        examples_of(run, 1)
    with pytest.raises(UserError, match=r"folder of image contains no manifest\.json"):
        examples_of(run, 1, str(tmp_path))
    with pytest.raises(UserError, match="--with-examples is -1; expected a number of cases"):
        compare_runs(runs, "test", tmp_path / "out", -1)
    assert not (tmp_path / "out").exists()


def test_the_command_line_adds_examples_on_request(
    runs: list[Path],
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["compare", *map(str, runs[1:]), "--out", str(tmp_path), "--shards", str(tiny_shards)]
    monkeypatch.setattr(sys, "argv", ["cxr-dist", *arguments, "--with-examples", "1"])
    main()
    assert (tmp_path / "report.html").read_text().count("<img") == 4
    printed = capsys.readouterr().out
    assert "image only: not evaluated" in printed
    assert "(holds patient data)" in printed
    keys = compare(runs[1:], n_bootstrap=10).runs[0].predictions.keys
    assert not [key for key in keys if key in printed + (tmp_path / "comparison.json").read_text()]


@needs_chromium
def test_a_real_browser_shows_the_images_and_no_element_is_too_wide(page: str, tmp_path: Path) -> None:
    count = "<script>onload = () => document.body.dataset.count = [...document.images]"
    count += ".filter(image => image.naturalWidth == 64).length</script></body>"
    counted = page.replace("</body>", count)
    shown = show(counted.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'"), tmp_path)
    assert 'data-count="12"' in shown.dom
    assert shown.console == []
    assert too_wide(page, 390, tmp_path) == []
