"""A recipe: which source becomes which shards. YAML in, a frozen typed `Recipe` out.

Everything that decides the bytes of a shard folder is a field here, so the manifest keeps the recipe whole.
What all readers share is checked when it is made; what one reader needs, by that reader before it reads.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cxr_dist.config.decode import decode, parse_yaml
from cxr_dist.errors import UserError, require
from cxr_dist.format.manifest import MOST_VIEWS
from cxr_dist.shard.columns import Columns
from cxr_dist.shard.redact import Redaction

Values = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How the source's label values become classes."""

    task: Literal["multiclass", "multilabel"] = "multiclass"
    """multiclass: exactly one class per image; multilabel: each class present, absent or unknown."""
    classes: dict[str, Values] = field(default_factory=dict)
    """Class -> its source values, in the order of the model's outputs. `*` in a value stands for anything, and
    a value on its own wins over one with `*`. Empty: every source value that is left is a class."""
    drop: Values = ()
    """Source values whose rows are left out."""
    min_count: int = 1
    """Source values on fewer images than this are left out."""
    separator: str | None = None
    """multilabel: what stands between the values of columns.label, e.g. `|`; or `list`, for ['this', 'notation']."""
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore"
    """multilabel: whether -1 is unknown (not trained on), absent or present."""
    empty: Literal["ignore", "zeros"] = "ignore"
    """multilabel, one column per class: whether an empty cell is unknown or absent. A wholly empty row is unknown."""

    def __post_init__(self) -> None:
        values = [value for patterns in self.classes.values() for value in patterns] + list(self.drop)
        twice = sorted({value for value in values if values.count(value) > 1})
        require(
            not twice,
            f"labels names the value {twice[:1]} twice: a value has one class, or is dropped",
        )
        require(self.min_count >= 1, f"labels.min_count is {self.min_count}; it must be at least 1")
        require(len(self.classes) != 1, "labels.classes has one class; at least two are needed")
        require(
            self.task == "multilabel" or self.separator is None,
            "labels.separator needs task: multilabel",
        )


@dataclass(frozen=True, kw_only=True)
class Split:
    """The shares of train, val and test."""

    by: Literal["patient", "study", "image"] = "patient"
    """What is never divided. `image` puts the views of one study into several splits: results look too good."""
    train: float = 0.70
    """Share of the images (by image) or of each class's patients or studies, in 0 to 1."""
    val: float = 0.15
    """Share for validation."""
    test: float = 0.15
    """Share for the test."""
    seed: int = 42
    """Fixes the split and the order of samples."""
    official: bool = False
    """mimic_cxr_jpg: take the published split. The shares above are then not used, and `by` is only checked."""

    def __post_init__(self) -> None:
        shares = (self.train, self.val, self.test)
        require(
            all(0 < share < 1 for share in shares) and abs(sum(shares) - 1) < 1e-6,
            f"split has train, val and test {shares}; expected three positive shares that add up to 1",
        )
        require(0 <= self.seed < 2**32, f"split.seed is {self.seed}; it must lie in 0 to 2^32 - 1")


@dataclass(frozen=True, kw_only=True)
class InvertedRows:
    """The rows whose films are stored with black bone (DICOM's MONOCHROME1)."""

    column: str
    """Column of the table that tells."""
    value: str
    """Its value for an inverted film, e.g. MONOCHROME1."""


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """The grey JPEG that is stored."""

    short_side: int = 256
    """Pixels; larger films are scaled down by area, smaller ones are kept."""
    quality: int = 92
    """JPEG quality, 1 to 100."""
    monochrome1: bool | InvertedRows = False
    """Invert all films, or those of some rows, so that bone is white."""

    def __post_init__(self) -> None:
        require(8 <= self.short_side <= 4096, f"image.short_side is {self.short_side}; expected 8 to 4096")
        require(1 <= self.quality <= 100, f"image.quality is {self.quality}; expected 1 to 100")


@dataclass(frozen=True, kw_only=True)
class ShardSize:
    """How samples are dealt to tars."""

    samples: int = 1000
    """At most so many in a shard."""

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"shard.samples is {self.samples}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The size of the made data."""

    studies: int = 1000
    """Number of studies; most have one film, some a frontal and a lateral one."""
    side: int = 128
    """Height and width of a drawn film, pixels."""
    seed: int = 0
    """Fixes every drawn film and every report."""

    def __post_init__(self) -> None:
        require(self.studies >= 1, f"demo.studies is {self.studies}; it must be at least 1")
        require(32 <= self.side <= 1024, f"demo.side is {self.side}; expected 32 to 1024 pixels")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set."""

    reader: str
    """Which layout the source folder has: openi, mimic_cxr_jpg, table or demo, or that of your own reader, MODULE:NAME
    or FILE.py:NAME, as shard/readers/own_reader.py says. A reader of your own may use any field below."""
    table: str | None = None
    """Relative to --source. table: a .csv or .tsv (.gz too) or .parquet. openi: a .csv of views (may be left away).
    mimic_cxr_jpg: the .csv.gz with a study's labels."""
    images: str = "images"
    """All but demo: folder of the films, relative to --source."""
    reports: str | None = "ecgen-radiology"
    """Relative to --source. openi: folder of the XML reports. mimic_cxr_jpg: folder or .zip of the .txt reports, or
    null for none."""
    patients: str | None = None
    """mimic_cxr_jpg: MIMIC-IV's patients.csv.gz, relative to --source, for sex and age (may be left away)."""
    demo: Demo = field(default_factory=Demo)
    """demo: how much to draw."""
    where: dict[str, Values] = field(default_factory=dict)
    """Column (table reader) or `view` -> values to keep; all other rows are left out."""
    views: Literal["frontal", "lateral", "all"] = "all"
    """Films of which projection to keep. Films whose view is neither, or unknown, belong to `all` alone."""
    samples: Literal["image", "study"] = "image"
    """What a sample is: one film, or the films of a study with their one report. `split.by` is another matter."""
    max_views: int = 2
    """samples: study: at most so many films of a study, the first frontal and the first lateral one before others."""
    columns: Columns | None = None
    """table: which column is what."""
    labels: Labels = field(default_factory=Labels)
    """Classes."""
    redact: Values = ()
    """Words that name the classes, replaced in all text sections so that the report does not give the answer away."""
    split: Split = field(default_factory=Split)
    """Train, val and test."""
    image: ImageFormat = field(default_factory=ImageFormat)
    """Stored image."""
    shard: ShardSize = field(default_factory=ShardSize)
    """Stored shards."""

    @property
    def views_per_sample(self) -> int:
        """Most films of a sample."""
        return self.max_views if self.samples == "study" else 1

    def __post_init__(self) -> None:
        Redaction(terms=self.redact)  # is checked when made
        require(
            2 <= self.max_views <= MOST_VIEWS,
            f"max_views is {self.max_views}; expected 2 to {MOST_VIEWS}, or samples: image for one film each",
        )
        require(
            self.samples == "image" or self.split.by != "image",
            "samples: study keeps the films of a study together: use split.by study or patient",
        )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; raises UserError for a missing file, broken YAML, or an unknown or ill-typed field.

    A reader's FILE.py is relative to the working directory or, where it is not there, to the recipe's own folder.
    """
    if not path.is_file():
        raise UserError(f"no recipe {path}: the package's own are in its shards folder")
    recipe = decode(Recipe, parse_yaml(path), path.name, by_hand=True)
    file, _, name = recipe.reader.rpartition(":")
    places = (Path(file).expanduser(), path.parent / file) if file.endswith(".py") else ()
    found = next((place.resolve() for place in places if place.is_file()), None)
    return recipe if found is None else replace(recipe, reader=f"{found}:{name}")
