"""The projection of each view, and that images of other projections are left out and counted."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from table_source import make_source, table_recipe

from cxr_dist.errors import UserError
from cxr_dist.shard.projection import projection
from cxr_dist.shard.readers import check_recipe, read_source
from cxr_dist.shard.recipe import Recipe, load_recipe
from cxr_dist.shard.select import select
from cxr_dist.shard.write import write_shards

RECIPES = Path(__file__).resolve().parents[2] / "shards"


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("PA", "frontal"), ("AP", "frontal"), ("AP LLD", "frontal"), ("AP AXIAL", "frontal"), ("LATERAL", "lateral"),
        ("LL", "lateral"), ("XTABLE LATERAL", "lateral"), ("LAO", ""), ("SWIMMERS", ""), ("", ""), ("RL", "lateral"),
        ("Frontal", "frontal"), ("Lateral", "lateral"), ("AP_horizontal", "frontal"), ("AP_AXIAL", "frontal"),
        ("L", "lateral"), (" pa ", "frontal"), ("AP Supine", "frontal"), ("COSTAL", ""), ("Axial", ""),
        ("LATERAL DECUBITUS", ""), ("PA LATERAL DECUBITUS", "frontal"),
    ],
)  # fmt: skip
def test_the_projection_of_a_view(view, expected):
    assert projection(view) == expected


def test_all_published_views_of_padchest_and_chexpert_are_classified_correctly(published_tables):
    chexpert = pd.read_csv(published_tables / "chexpert_train.csv.gz", usecols=["Frontal/Lateral", "AP/PA"])
    assert (chexpert["Frontal/Lateral"].map(projection) == chexpert["Frontal/Lateral"].str.lower()).all()
    assert set(chexpert["AP/PA"].dropna().map(projection)) <= {"frontal", "lateral"}
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    views = pd.read_csv(published_tables / name, usecols=["Projection"])["Projection"].dropna().unique()
    frontal, lateral = ({v for v in views if projection(v) == kind} for kind in ("frontal", "lateral"))
    assert (frontal, lateral) == ({"PA", "AP", "AP_horizontal"}, {"L"})


def views_table(source: Path) -> Path:
    """Make every second image lateral, and give three images an unknown view."""
    table = pd.read_csv(source / "films.csv")
    table.loc[1::2, "view"] = "LATERAL"
    table.loc[[4, 6, 9], "view"] = ["", "SWIMMERS", "LAO"]
    table.to_csv(source / "films.csv", index=False)
    return source


def test_images_of_other_views_are_left_out_and_counted(tmp_path):
    source = views_table(make_source(tmp_path / "source"))
    other, unknown = "not of the recipe's views", "view not known to be frontal or lateral"
    for views, kept, left_out in (
        ("frontal", 38, {other: 39, unknown: 3}),
        ("lateral", 39, {other: 38, unknown: 3}),
        ("all", 80, {}),
    ):
        manifest = write_shards(table_recipe(views=views), source, tmp_path / views, workers=0)
        assert sum(split.samples for split in manifest.splits.values()) == kept
        assert manifest.left_out == left_out


def test_the_demo_has_both_projections():
    recipe = load_recipe(RECIPES / "demo.yaml")
    recipe = dataclasses.replace(recipe, demo=dataclasses.replace(recipe.demo, studies=60))
    source = read_source(recipe, None)
    sizes = {
        views: len(select(dataclasses.replace(recipe, views=views), source).samples)
        for views in ("frontal", "lateral", "all")
    }
    assert sizes["frontal"] == 60
    assert sizes["lateral"] + sizes["frontal"] == sizes["all"]


def test_a_source_without_images_of_the_chosen_projection_is_refused(tmp_path):
    source = make_source(tmp_path / "source", patients=3)
    with pytest.raises(UserError, match=r"none of 6 images is lateral; 0 have a view that is not known to be"):
        write_shards(table_recipe(views="lateral"), source, tmp_path / "shards", workers=0)


def test_a_recipe_that_selects_views_needs_a_source_of_views():
    columns = dataclasses.replace(table_recipe().columns, view=None)
    with pytest.raises(UserError, match=r"views: frontal with reader table needs columns\.view"):
        check_recipe(table_recipe(columns=columns, views="frontal"))
    with pytest.raises(UserError, match=r"views: lateral with reader openi needs `table`, the \.csv of views"):
        check_recipe(Recipe(reader="openi", views="lateral"))
