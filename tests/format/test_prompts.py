"""Prompts of a recipe: what is accepted and refused, and what shards without them have."""

from pathlib import Path

import pytest
from made_shards import TINY_RECIPE, write_other_shards

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest
from cxr_dist.format.prompts import Prompts, check_prompts, prompts_of
from cxr_dist.shard.recipe import load_recipe

GOOD = {
    "A": Prompts(present=("A is seen.", "There is A."), absent=("No A.",)),
    "B": Prompts(present=("B.",), absent=("No B.",)),
}


def test_prompts_of_the_recipe_are_stored_in_the_manifest(tmp_path: Path) -> None:
    names = ("Normal", "Cardiomegaly", "Effusion", "Opacity", "Nodule")
    lines = "".join(f"  {name}: {{present: ['Findings of {name}.']}}\n" for name in names)
    manifest = load_manifest(
        write_other_shards(tmp_path, "shard: {samples: 13}\n", f"shard: {{samples: 13}}\nprompts:\n{lines}")
    )
    found, source = prompts_of(manifest.recipe, manifest.classes, manifest.task)
    assert source == "recipe"
    assert found == {name: Prompts(present=(f"Findings of {name}.",)) for name in names}


def test_shards_without_prompts_have_the_names_of_the_classes(tiny_shards: Path) -> None:
    manifest = load_manifest(tiny_shards)
    assert "prompts" not in manifest.recipe, "the bytes of shards that were written before do not change"
    found, source = prompts_of(manifest.recipe, ("Edema", "Nodule"), "multilabel")
    assert source == "class names"
    assert found == {name: Prompts(present=(name,), absent=(f"No {name}",)) for name in ("Edema", "Nodule")}
    assert prompts_of({}, ("Edema",), "multiclass")[0] == {"Edema": Prompts(present=("Edema",))}


def test_good_prompts_pass() -> None:
    check_prompts(GOOD, ("A", "B"), "multilabel")
    check_prompts({}, ("A", "B"), "multilabel")


@pytest.mark.parametrize(
    ("changes", "task", "message"),
    [
        ({"C": GOOD["A"]}, "multilabel", r"class in prompts 'C'"),
        ({"B": None}, "multilabel", r"prompts lacks the class \['B'\]: give prompts for every class, or for none"),
        ({"B": Prompts(present=("B.",))}, "multilabel", r"prompts.B has no absent prompts: a multilabel task needs"),
        ({"B": Prompts(present=("B.",))}, "multiclass", r"prompts.B has no absent prompts"),
        ({"B": Prompts(present=(), absent=("No B.",))}, "multilabel", r"prompts.B.present has 0 prompts; expected 1"),
        ({"B": Prompts(present=("b", "B "), absent=("No",))}, "multilabel", r"prompts.B.present has a prompt twice"),
        ({"B": Prompts(present=("B.",), absent=(" .",))}, "multilabel", r"prompts.B.absent has a prompt that is empty"),
        ({"B": Prompts(present=("B" * 301,), absent=("N",))}, "multilabel", r"or longer than 300 characters"),
        ({"B": Prompts(present=("B.",), absent=("b.",))}, "multilabel", r"prompts.B has the same prompt for present"),
        ({"B": Prompts(present=("There  is a.",), absent=("No B",))}, "multilabel", r"same present prompt for A and B"),
        ({"B": Prompts(present=("x",) * 101, absent=("N",))}, "multilabel", r"has 101 prompts; expected 1 to 100"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_meant_are_refused(changes: dict, task: str, message: str) -> None:
    prompts = {name: each for name, each in (GOOD | changes).items() if each is not None}
    with pytest.raises(UserError, match=message):
        check_prompts(prompts, ("A", "B"), task)


def test_a_recipe_with_a_wrong_class_is_refused_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TINY_RECIPE + "prompts: {Efusion: {present: [An effusion.]}}\n")
    with pytest.raises(UserError, match=r"class in prompts 'Efusion'.*Effusion"):
        load_recipe(tmp_path / "recipe.yaml")
