"""The demo reader: synthetic images and reports from `cxr_dist.shard.phantom`. It reads no folder."""

from pathlib import Path

from cxr_dist.errors import UserError
from cxr_dist.shard.phantom.phantom_image import PhantomImage
from cxr_dist.shard.phantom.study import draw_study
from cxr_dist.shard.phantom.wording import PHANTOM_SECTIONS, write_report
from cxr_dist.shard.readers.recipe_checks import check_no_columns, check_no_official_split, check_one_label
from cxr_dist.shard.recipe import Demo, Recipe
from cxr_dist.shard.record import Record, Source


def check(recipe: Recipe) -> None:
    """Raise UserError for a recipe with fields that do not apply to synthetic data."""
    check_no_columns(recipe)
    check_no_official_split(recipe)
    check_one_label(recipe)


def read(recipe: Recipe, folder: Path | None) -> Source:
    """All images of the recipe's synthetic studies; raises UserError if a folder is given."""
    if folder is not None:
        raise UserError("reader demo makes its own data: omit --source, or use a recipe for your folder")
    records = [record for number in range(recipe.demo.studies) for record in _records(recipe.demo, number)]
    return Source(records=records, text_sections=PHANTOM_SECTIONS, made_data=True)


def _records(demo: Demo, number: int) -> list[Record]:
    study = draw_study(demo.seed, number)
    text = write_report(study, demo.seed)
    return [
        Record(
            source_id=f"phantom-{demo.seed}-{number:05d}-{view}",
            image_id=f"phantom-{demo.seed}-{number:05d}-{view}",
            study=f"phantom-{demo.seed}-{number:05d}",
            patient=f"phantom-{demo.seed}-{study.patient:05d}",
            view=view,
            sex=study.sex,
            age=study.age,
            values=(study.finding,),
            text=text,
            fields={"view": view},
            pixels=PhantomImage(seed=demo.seed, study=number, view=view, side=demo.side),
        )
        for view in study.views
    ]
