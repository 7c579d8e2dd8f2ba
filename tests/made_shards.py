"""Small shards of synthetic images, for tests with and without pytest."""

from pathlib import Path

from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

TINY_RECIPE = """
reader: demo
demo: {studies: 120, side: 64, seed: 0}
labels:
  task: multiclass
  classes: {Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 1}
image: {short_side: 64, quality: 90}
shard: {samples: 13}
"""


def write_tiny_shards(folder: Path) -> Path:
    """Write recipe.yaml and shards/ of 120 small synthetic studies, 13 samples per shard; return FOLDER/shards."""
    (folder / "recipe.yaml").write_text(TINY_RECIPE)
    write_shards(load_recipe(folder / "recipe.yaml"), None, folder / "shards", workers=1)
    return folder / "shards"


def write_study_shards(folder: Path) -> Path:
    """Write shards of 60 small synthetic studies; a sample is a frontal image and, in some studies, a lateral one."""
    recipe = TINY_RECIPE.replace("studies: 120", "studies: 60") + "samples: study\n"
    (folder / "studies.yaml").write_text(recipe)
    write_shards(load_recipe(folder / "studies.yaml"), None, folder / "studies", workers=1)
    return folder / "studies"
