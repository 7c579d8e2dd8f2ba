"""Cases on the page: the right ones, from the right shards, only when asked for, and marked as what they are."""

import base64
import contextlib
import dataclasses
import json
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
    """Key -> (stored film, report) of the test split."""
    with contextlib.closing(ShardStore(tiny_shards, load_manifest(tiny_shards), "test")) as store:
        places = [(s, i) for s, entry in enumerate(store.shards) for i in range(entry.samples)]
        read = [store.read(*place) for place in places]
    return {sample["__key__"]: (sample["jpg"], json.loads(sample["json"])["text"]) for sample in read}


def pixels(jpeg: bytes) -> np.ndarray:
    """Grey levels [H, W] as float."""
    return cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_GRAYSCALE).astype(float)


def predictions_on(shards: Path, seed: int = 0) -> Predictions:
    """Made predictions of the samples of the test split."""
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
    """An image-only, a report-only and a fused run, evaluated on the tiny shards, which have moved since."""
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
def test_chosen_cases_are_the_extreme_ones(task: str, n: int, count: int, seed: int, passes: int) -> None:
    made = make_predictions(task=task, n=n, seed=seed, data=seed, passes=passes)
    entropy = -made.probabilities * np.log(made.probabilities)
    if task == "multilabel":
        entropy += -(1 - made.probabilities) * np.log1p(-made.probabilities)
    uncertainty = made.mc.predictive_entropy if made.mc else entropy.sum(axis=1)
    chosen = most_uncertain(made, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, n)
    assert uncertainty[chosen] == pytest.approx(np.sort(uncertainty)[::-1][:count])

    truth = np.eye(5)[made.labels[:, 0]] if task == "multiclass" else made.labels * 1.0
    missed = np.where(truth == -1, 0, np.abs(truth - made.probabilities))
    distance = (missed * truth if task == "multiclass" else missed).max(axis=1)
    known = np.ones_like(truth, dtype=bool) if task == "multiclass" else truth != -1
    answers = np.eye(5)[made.predicted] if task == "multiclass" else made.predicted
    wrong = ((answers != truth) & known).any(axis=1)
    chosen = most_wrong(made, count)
    assert wrong[chosen].all()
    assert distance[chosen] == pytest.approx(np.sort(distance[wrong])[::-1][:count])


def test_a_case_has_the_film_and_the_sections_of_its_sample(
    runs: list[Path], tiny_shards: Path, samples: dict[str, tuple[bytes, dict[str, str]]]
) -> None:
    run = compare(runs[2:]).runs[0]
    found = examples_of(run, 3, str(tiny_shards))
    for example in (*found.most_uncertain, *found.most_wrong):
        row = run.predictions.keys.index(example.key)
        report = samples[example.key][1]
        film = pixels(base64.b64decode(example.films[0].partition(",")[2]))
        distance = {key: np.abs(film - pixels(jpeg)).mean() for key, (jpeg, _) in samples.items()}
        assert min(distance, key=distance.__getitem__) == example.key
        assert example.sections == {name: report[name] for name in SECTIONS if name in report}
        assert example.truth == run.predictions.classes[run.predictions.labels[row, 0]]
        assert [each.probability for each in example.classes] == run.predictions.probabilities[row].tolist()
        assert example.right == (example.answer == example.truth)
    assert not any(example.right for example in found.most_wrong)


def test_several_labels_some_unknown(tiny_shards: Path, tmp_path: Path) -> None:
    made = predictions_on(tiny_shards)
    labels = np.eye(5, dtype=np.int16)[made.labels[:, 0]]
    labels[:, 1], labels[:, 2] = -1, 1
    several = dataclasses.replace(made, task="multilabel", labels=labels, mc=None)
    digest = sha256_of(tiny_shards / "manifest.json")
    comparison = compare([make_run(tmp_path / "a", several, manifest_sha256=digest)], n_bootstrap=10)
    found = examples_of(comparison.runs[0], 2, str(tiny_shards))
    example, row = found.most_wrong[0], several.keys.index(found.most_wrong[0].key)
    said = dict(zip((1, 0, -1), ("yes", "no", "unknown"), strict=True))
    assert [each.label for each in example.classes] == [said[label] for label in labels[row].tolist()]
    names = [each.name for each in example.classes]
    assert example.truth == ", ".join(
        name for name, label in zip(names, labels[row], strict=True) if label == 1
    )
    above = [name for name, p in zip(names, several.probabilities[row], strict=True) if p >= 0.5]
    assert example.answer == (", ".join(above) or "none")
    assert example.right is False
    assert "Over passes" not in render_page(comparison, [found])


def test_a_large_film_is_shown_small(
    runs: list[Path], tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_dist.report.examples._LONGEST_SIDE", 32)
    [example] = examples_of(compare(runs[:1]).runs[0], 1, str(tiny_shards)).most_uncertain
    assert max(pixels(base64.b64decode(example.films[0].partition(",")[2])).shape) == 32


def test_without_examples_nothing_of_a_case_is_on_the_page(
    runs: list[Path], page: str, samples: dict[str, tuple[bytes, dict[str, str]]]
) -> None:
    comparison = compare(runs, n_bootstrap=10)
    plain = render_page(comparison)
    patients = comparison.runs[0].predictions.patients
    texts = [text for _, report in samples.values() for text in report.values()]
    secrets = [*samples, *patients, *texts]
    assert len(texts) > 10
    assert not [secret for secret in secrets if secret in plain]
    assert not [mark for mark in ("data:image", "<img", "img-src", "single cases") if mark in plain]
    assert "data:image" in page  # what is looked for is there where it was asked for
    assert [key for key in samples if key in page]
    assert [text for text in texts if text in page]
    assert not [patient for patient in patients if patient in page]


def test_each_run_shows_only_the_sections_that_it_was_given(
    runs: list[Path], page: str, samples: dict[str, tuple[bytes, dict[str, str]]]
) -> None:
    image, text, fused = (part.partition("</details>")[0] for part in page.split("<details open>")[1:])
    assert "<dt>" not in image
    assert image.count("<img") == text.count("<img") == fused.count("<img") == 4
    assert text.count("Not seen by this run") == 4
    assert "Not seen by this run" not in image + fused
    assert fused.index("<dt>Findings") < fused.index("<dt>Indication")
    assert "<dt>Impression" not in page


@pytest.mark.parametrize("made_data", [True, False])
def test_the_banner_says_what_the_page_holds(runs: list[Path], made_data: bool) -> None:
    run = compare(runs[:1]).runs[0]
    run = dataclasses.replace(run, evaluation=run.evaluation | {"made_data": made_data})
    comparison = dataclasses.replace(compare(runs[:1]), runs=(run,))
    page = render_page(comparison, [RunExamples(most_uncertain=(), most_wrong=())])
    assert ("<strong>Patient data.</strong> This page shows films and report text" in page) is not made_data
    assert ("<strong>Made cases.</strong>" in page) is made_data
    assert page.index('class="private"') < page.index("<h1>")
    assert "No answer of this run is wrong." in page


def test_only_the_owner_may_read_a_page_with_cases(
    runs: list[Path], tiny_shards: Path, tmp_path: Path
) -> None:
    comparison, out = compare(runs[:1]), tmp_path / "report.html"
    for examples, mode in (([], 0o644), ([examples_of(comparison.runs[0], 1, str(tiny_shards))], 0o600)):
        write_page(comparison, out, examples)
        assert stat.S_IMODE(out.stat().st_mode) == mode
    assert "data:image" in out.read_text()


def test_other_shards_are_refused(runs: list[Path], tmp_path: Path) -> None:
    run = compare(runs[:1]).runs[0]
    with pytest.raises(
        UserError, match=r"another manifest\.json is where image should have its shards.*--shards"
    ):
        examples_of(run, 1)
    with pytest.raises(UserError, match=r"no manifest\.json is where image should have"):
        examples_of(run, 1, str(tmp_path))
    with pytest.raises(UserError, match="--with-examples is -1; expected a number of cases"):
        compare_runs(runs, "test", tmp_path / "out", -1)
    assert not (tmp_path / "out").exists()


def test_the_command_line_asks_for_cases(
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
    said = capsys.readouterr().out
    assert "image only: not evaluated" in said
    assert "(holds patient data)" in said
    keys = compare(runs[1:], n_bootstrap=10).runs[0].predictions.keys
    assert not [key for key in keys if key in said + (tmp_path / "comparison.json").read_text()]


@needs_chromium
def test_a_real_browser_shows_the_films_and_nothing_too_wide(page: str, tmp_path: Path) -> None:
    count = "<script>onload = () => document.body.dataset.films = [...document.images]"
    count += ".filter(image => image.naturalWidth == 64).length</script></body>"
    counted = page.replace("</body>", count)
    shown = show(
        counted.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'"), tmp_path
    )
    assert 'data-films="12"' in shown.dom
    assert shown.complaints == []
    assert too_wide(page, 390, tmp_path) == []
