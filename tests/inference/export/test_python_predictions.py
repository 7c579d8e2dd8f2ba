"""Predictions from Python: images in memory, DataFrames, what the model used, and a device that is missing."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cxr_dist
from cxr_dist.errors import UserError


@pytest.fixture
def model(exported):
    return cxr_dist.load(exported)


@pytest.fixture
def cases(cases_of):
    """Five images and their reports."""
    return list(cases_of("multiclass").values())[:5]


def test_an_image_in_memory_gives_the_answer_of_its_file(model, cases):
    image, report = cases[0]
    expected = model.predict(image, report)
    pixels = cv2.imread(str(image), cv2.IMREAD_UNCHANGED)
    for given in (str(image), image.read_bytes(), Image.open(image), pixels, pixels / 255, [pixels]):
        assert model.predict(given, report) == expected


def test_heat_map_words_and_embedding_are_given_on_request(model, cases):
    image, report = cases[0]
    plain = model.predict(image, report)
    asked = model.predict(image, report, heat_map=True, words=True, embedding=True)
    assert {name: asked[name] for name in plain} == plain
    values = asked["headline"]["values"]
    assert asked["explained_class"] == max(values, key=values.get)
    assert asked["heat_map"].ndim == 2
    assert 0 <= asked["heat_map"].min() <= asked["heat_map"].max() <= 1
    assert [word["word"] for word in asked["words"]] == [w for part in report.split(",") for w in (*part.split(), ",")][
        :-1
    ]
    assert asked["embedding"].shape == (model.classifier.summary.width,)
    head = model.classifier.head(torch.from_numpy(asked["embedding"]).float()[None])
    probability = torch.softmax(head.double(), -1)[0].tolist()
    assert probability == pytest.approx(list(asked["probability"].values()), abs=1e-5)


def test_a_frame_gives_the_rows_of_single_predictions_with_its_index(model, cases):
    frame = pd.DataFrame(cases, columns=["image", "report"], index=list("abcde"))
    frame["ward"] = 1
    table = model.predict_many(frame, mc_samples=3, batch_size=2)
    assert list(table.index) == list("abcde")
    assert (table["error"] == "").all()
    for (image, report), (_, row) in zip(cases, table.iterrows(), strict=True):
        alone = model.predict(image, report, mc_samples=3)
        assert row["predicted"] == alone["headline"]["predicted"][0]
        for quantity in ("probability", "calibrated", "mc_mean", "mc_low"):
            given = [row[f"{quantity}:{name}"] for name in model.classes]
            assert given == pytest.approx(list(alone[quantity].values()), abs=2e-6)


def test_a_row_that_cannot_be_used_has_its_reason_and_the_others_their_answer(model, cases, tmp_path):
    image, report = cases[0]
    images = [str(image), str(tmp_path / "nowhere.png"), np.zeros((8, 8), np.int64), None, str(image)]
    frame = pd.DataFrame({"image": pd.Series(images, dtype=object), "notes": [report, report, report, report, np.nan]})
    table = model.predict_many(frame)
    reasons = ("", "cannot be used", "array of int64", "the case has none: give a PNG", "the case has none: give")
    assert all(reason in error for reason, error in zip(reasons, table["error"], strict=True))
    assert (table["error"] == "").tolist() == [True, False, False, False, False]
    assert table["probability:Sick"].notna().tolist() == [True, False, False, False, False]
    assert len(model.predict_many(frame.iloc[:0])) == 0


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["picture", "report"], {}, "the frame has no column 'image'; this model reads image and report"),
        (["image", "text"], {}, "the frame has no column 'report'"),
        (["image", "report"], {"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        (["image", "report"], {"section": "findings"}, "unknown section 'findings'"),
    ],
)
def test_a_frame_that_the_model_cannot_read_is_refused(model, cases, columns, options, message):
    with pytest.raises(UserError, match=message):
        model.predict_many(pd.DataFrame(cases, columns=columns), **options)


def test_a_model_is_shown_in_a_few_lines(model):
    shown = repr(model)
    assert "reads images and reports, on cpu" in shown
    assert "multiclass, 2 classes: Sick, Well" in shown
    assert len(shown.splitlines()) <= 5
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "nonsense"])
def test_a_missing_device_is_named_with_those_that_there_are(exported, device):
    with pytest.raises(UserError, match=rf"there is no device '{device}': torch sees .* on this machine; use 'cpu'"):
        cxr_dist.load(exported, device=device)
