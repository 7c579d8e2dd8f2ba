"""What a draw takes of a study and its report follows from its key, and covers all that there is."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.data.place import open_manifest
from cxr_dist.data.report_pairs import drawn_pair, drawn_sentences, report_id, sentences_of

REPORT = "1. No effusion. 2. Heart size is 12.5 cm; lungs are clear!\nNo pneumothorax"
SENTENCES = ["No effusion.", "Heart size is 12.5 cm;", "lungs are clear!", "No pneumothorax"]


def test_a_report_is_cut_into_its_sentences() -> None:
    assert sentences_of(REPORT) == SENTENCES
    assert sentences_of(" \n 3. ") == []


@given(st.integers(0, 2**64 - 1), st.integers(1, 3))
def test_drawn_sentences_keep_their_order(key: int, number: int) -> None:
    text = drawn_sentences(REPORT, number, key)
    places = [REPORT.index(sentence) for sentence in SENTENCES if sentence in text]
    assert len(places) == number
    assert text == " ".join(sentence for sentence in SENTENCES if sentence in text)
    assert text == drawn_sentences(REPORT, number, key)


def test_each_sentence_is_drawn_equally_often() -> None:
    drawn = [drawn_sentences(REPORT, 1, key) for key in range(4000)]
    assert {text: drawn.count(text) for text in SENTENCES} == {text: pytest.approx(1000, abs=120) for text in SENTENCES}


@pytest.mark.parametrize("number", [0, 4, 9])
def test_the_whole_text_is_read_as_it_is(number: int) -> None:
    assert drawn_sentences(REPORT, number, 7) == REPORT


def test_one_image_of_a_study_is_drawn_each_equally_often() -> None:
    sections = ("findings", "impression")
    sample = {"jpg": "a", "1.jpg": "b", "2.jpg": "c", "sample_id": 3}
    sample["json"] = {"text": {"findings": "Clear. Sharp.", "impression": "Normal.", "history": "Secret."}}
    drawn = [drawn_pair(sample | {"augmentation_key": np.uint64(key)}, sections, 1) for key in range(3000)]
    images = [each["jpg"] for each in drawn]
    assert {image: images.count(image) for image in "abc"} == {image: pytest.approx(1000, abs=110) for image in "abc"}
    assert all("1.jpg" not in each and each["sample_id"] == 3 for each in drawn)
    texts = {each["json"]["text"]["findings"] for each in drawn}
    assert texts == {"Clear.", "Sharp.", "Normal."}, "history was not chosen"
    assert {each["report_ids"][0] for each in drawn} == {report_id("Clear. Sharp. Normal.")}


def test_equal_texts_have_equal_ids_and_no_text_has_0() -> None:
    assert report_id("No effusion.") == report_id("No effusion.") != report_id("No effusion")
    assert report_id("") == report_id(" ._") == 0
    assert 0 < report_id("a") < 2**63


@pytest.mark.parametrize("lanes", [range(4), range(1, 4, 2)])
def test_the_loader_gives_the_same_pairs_to_a_lane_on_any_rank(study_config, lanes: range) -> None:
    data, manifest = study_config.data, open_manifest(study_config.data)
    plan = training_plan(data, manifest, seed=5)
    streams = {}
    for own in (range(4), lanes):
        stream = training_batches(
            dataclasses.replace(data, text_sections=("findings",)), manifest, plan, lanes=own, first_step=0,
            tokenizer=None, with_images=True, with_texts=True, pairs_of=1,
        )  # fmt: skip
        streams[own] = {(step, lane): next(stream) for step in range(2) for lane in own}
    for place, batch in streams[lanes].items():
        other = streams[range(4)][place]
        assert batch.view_rows is None
        assert len(batch.images) == len(batch)
        assert batch.images.equal(other.images)
        assert batch.texts == other.texts
        assert batch.report_ids.equal(other.report_ids)
        assert [report_id(text) for text in batch.texts] == batch.report_ids[:, 1].tolist()
