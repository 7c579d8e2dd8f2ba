"""The model card shows names as they are: no name in it is Markdown, HTML, YAML or code."""

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from made_runs import make_predictions, make_run

from cxr_dist.evaluate.run_result import read_run
from cxr_dist.report.model_card import CardFacts, model_card

HOSTILE = (
    "a|b", "`c`", "<script>alert(1)</script>", "[d](http://e)", "\n# f", "*g*", "\n```\nh", "\n---\ni: j", "{{ k }}",
    '"}); m(', "\x1b[2J\u202en",
)  # fmt: skip


def card_of(folder: Path, classes: tuple[str, ...], sections: tuple[str, ...], run: str, reader: str) -> str:
    made = make_run(folder / "run", make_predictions(n=60, classes=classes), sections=sections, recipe=run)
    result = read_run(made, "run", "test")
    assert result.manifest is not None
    facts = CardFacts(
        config=result.config,
        manifest=replace(result.manifest, reader=reader, left_out={run: 3}),
        manifest_sha256="0" * 64,
        step=180,
        calibrator=None,
        result=result,
        unfinished="",
        with_graph=True,
    )
    return model_card(facts)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    return card_of(tmp_path_factory.mktemp("hostile"), HOSTILE, HOSTILE, "".join(HOSTILE), "".join(HOSTILE))


def test_hostile_names_add_no_line_and_no_cell(card: str, tmp_path: Path) -> None:
    plain = tuple(f"name{i}" for i in range(len(HOSTILE)))
    # The front matter, which may fold a long name, is compared by its values below.
    hostile, expected = (
        text.split("# Chest X-ray classifier", 1)[1].splitlines()
        for text in (card, card_of(tmp_path, plain, plain, "run", "demo"))
    )
    assert len(hostile) == len(expected)
    for ours, theirs in zip(hostile, expected, strict=True):
        if theirs.startswith("|"):
            assert ours.replace("\\|", "").count("|") == theirs.count("|")
        assert ours[:2] == theirs[:2]  # headings, list items, fences and table rows start the same lines


def test_no_html_link_or_control_character_is_in_the_card(card: str) -> None:
    text = card.split("# Chest X-ray classifier", 1)[1]
    python = next(line for line in text.splitlines() if line.startswith("print("))
    compile(python, "card", "exec")
    for markup in ("<script", "[d]("):
        assert markup not in text.replace(python, "")
    assert not [c for c in text if not c.isprintable() and c != "\n"]


def test_the_front_matter_is_whole(card: str) -> None:
    model = huggingface_hub.ModelCard(card).data
    assert model.model_name == f"cxr_dist {''.join(HOSTILE)} (image + report)"
    assert model.pipeline_tag == "image-classification"
    front = card.split("\n---\n")[0].removeprefix("---\n")
    assert yaml.safe_load(front)["license"] == "unknown"
