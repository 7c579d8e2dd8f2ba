"""Recall equals a plain count, whatever is repeated, and what is known beforehand comes out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.evaluate import retrieval
from cxr_dist.evaluate.retrieval import CUTS, DIRECTIONS, Embedded, retrieve


def embedded_of(ids: list[int], seed: int = 0, noise: float = 1.0) -> Embedded:
    random = np.random.default_rng(seed)
    of_text = {number: random.normal(size=4) for number in set(ids)}
    reports = np.stack([of_text[number] for number in ids])
    images = reports + noise * random.normal(size=reports.shape)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (images, reports)]
    return Embedded(images=unit[0], reports=unit[1], report_ids=np.array(ids))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 100), st.sampled_from([1, 4, 1000]))
def test_recall_equals_a_plain_count(ids: list[int], seed: int, block: int) -> None:
    embedded, before = embedded_of(ids, seed), retrieval._QUERIES
    retrieval._QUERIES = block
    try:
        found = retrieve(embedded)
    finally:
        retrieval._QUERIES = before
    rows = [row for row, number in enumerate(ids) if number]
    assert found.rows.tolist() == rows
    texts = sorted({ids[row] for row in rows})
    for place, row in enumerate(rows):
        first = {number: ids.index(number) for number in texts}
        near = {number: embedded.images[row] @ embedded.reports[first[number]] for number in texts}
        better = sum(value >= near[ids[row]] for number, value in near.items() if number != ids[row])
        assert found.better["image_to_report"][place] == better
        images = {other: embedded.images[other] @ embedded.reports[first[ids[row]]] for other in rows}
        best = max(value for other, value in images.items() if ids[other] == ids[row])
        better = sum(value >= best for other, value in images.items() if ids[other] != ids[row])
        assert found.better["report_to_image"][place] == better
    for k in CUTS if rows else ():
        assert found.recall("image_to_report", k) == np.mean(found.better["image_to_report"] < k)


def test_a_perfect_model_finds_everything() -> None:
    found = retrieve(embedded_of([1, 2, 3, 3, 4, 0, 5], noise=0.0))
    assert {value for name, value in found.values.items()} == {1.0}
    assert found.candidates == {"image_to_report": 5, "report_to_image": 6}


def test_a_model_that_embeds_everything_alike_finds_nothing() -> None:
    same = np.tile([[0.6, 0.8]], (12, 1))
    found = retrieve(Embedded(images=same, reports=same, report_ids=np.arange(1, 13)))
    assert found.mean_recall == 0


def test_random_embeddings_are_as_good_as_chance() -> None:
    random = np.random.default_rng(0)
    ids = np.repeat(np.arange(1, 41), 3)
    rows = [
        retrieve(
            Embedded(
                images=random.normal(size=(120, 8)),
                reports=random.normal(size=(40, 8))[ids - 1],
                report_ids=ids,
            )
        )
        for _ in range(60)
    ]
    for direction in DIRECTIONS:
        for k in CUTS:
            mean = np.mean([row.recall(direction, k) for row in rows])
            assert mean == pytest.approx(rows[0].chance[direction][k], abs=0.02), (direction, k)


def test_a_split_without_reports_has_no_values() -> None:
    assert retrieve(embedded_of([0, 0])).values == {}
