"""The recipe: how a source becomes shards. `load_recipe` reads YAML into a frozen, typed `Recipe`.

Every setting that affects the bytes of a shard folder is a field here, and the manifest stores the whole recipe.
Rules common to all readers are checked on construction; each reader checks its own rules before it reads.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from cxr_dist.config.decode import decode, parse_yaml
from cxr_dist.config.range import Range, check_ranges
from cxr_dist.config.supplied import recipe_files
from cxr_dist.errors import UserError, require
from cxr_dist.format.folds import fold_name
from cxr_dist.format.manifest import MOST_VIEWS, SPLITS
from cxr_dist.format.prompts import ClassPrompts, check_prompts
from cxr_dist.format.redact import Redaction
from cxr_dist.shard.columns import Columns
from cxr_dist.shard.dicom_tags import DicomTags, Join

Values = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How the label values of the source map to classes."""

    task: Literal["multiclass", "multilabel"] = "multiclass"
    """multiclass: exactly one class per image; multilabel: each class is present, absent or unknown."""
    classes: dict[str, Values] = field(default_factory=dict)
    """Class -> its source values, in the order of the model's outputs. `*` in a value matches any text; an exact
    value takes precedence over a pattern. If empty, every remaining source value is a class."""
    drop: Values = ()
    """Source values whose rows are excluded."""
    min_count: Annotated[int, Range(min=1)] = 1
    """Source values that occur on fewer images than this are excluded."""
    separator: str | None = None
    """multilabel: the separator between the values of columns.label, e.g. `|`; or `list` for ['this', 'notation']."""
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore"
    """multilabel: whether -1 counts as unknown (not trained on), absent or present."""
    empty: Literal["ignore", "zeros"] = "ignore"
    """multilabel with one column per class: whether an empty cell is unknown or absent. An empty row is unknown."""

    def __post_init__(self) -> None:
        check_ranges(self, "labels")
        values = [value for patterns in self.classes.values() for value in patterns] + list(self.drop)
        twice = sorted({value for value in values if values.count(value) > 1})
        require(not twice, f"labels names the value {twice[:1]} twice: give it one class, or drop it")
        require(len(self.classes) != 1, "labels.classes has one class; at least two are needed")
        require(self.task == "multilabel" or self.separator is None, "labels.separator needs task: multilabel")


@dataclass(frozen=True, kw_only=True)
class Split:
    """How samples are divided into train, val and test, or into the folds of a cross-validation."""

    by: Literal["patient", "study", "image"] = "patient"
    """The unit that is never divided. `image` can put views of a study into several splits, which inflates results."""
    train: Annotated[float, Range(above=0, below=1)] = 0.70
    """Share for training, in 0 to 1: of the images (by image), or of each class's patients or studies."""
    val: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share for validation."""
    test: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share for testing."""
    seed: Annotated[int, Range(min=0, max=2**32 - 1)] = 42
    """Seed of the split and of the order of samples."""
    official: bool = False
    """mimic_cxr_jpg: use the published split. The shares above are then ignored, and `by` is only checked."""
    folds: Annotated[int | None, Range(min=3)] = None
    """Number of folds of a cross-validation, 3 or more, in place of the shares above. Patients are assigned to folds by
    scikit-learn's StratifiedGroupKFold. A run chooses its test fold with --data.fold; the next fold is its validation
    split (after the last one, fold 0), and it is trained on the others."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts that samples are divided into: the three splits, or fold0, fold1, …."""
        return SPLITS if self.folds is None else tuple(map(fold_name, range(self.folds)))

    def __post_init__(self) -> None:
        check_ranges(self, "split")
        shares = (self.train, self.val, self.test)
        if self.folds is not None:
            require(
                shares == (Split.train, Split.val, Split.test) and not self.official,
                f"split has folds: {self.folds} and also shares (train, val, test) or official; folds replace them: "
                "keep one of the two",
            )
            require(
                self.by == "patient",
                f"split has folds: {self.folds} and by: {self.by}; a fold never divides a patient: use by: patient",
            )
        require(
            abs(sum(shares) - 1) < 1e-6,
            f"split has train, val and test {shares}; expected three positive shares that add up to 1",
        )


@dataclass(frozen=True, kw_only=True)
class InvertedRows:
    """The rows whose images are stored inverted, with black bone (DICOM's MONOCHROME1)."""

    column: str
    """Column of the table that says so."""
    value: str
    """Its value for an inverted image, e.g. MONOCHROME1."""


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """The grey JPEG that a shard stores."""

    short_side: Annotated[int, Range(min=8, max=4096)] = 256
    """Length of the shorter side in pixels; larger images are scaled down by area, smaller ones are kept."""
    quality: Annotated[int, Range(min=1, max=100)] = 92
    """JPEG quality, 1 to 100."""
    monochrome1: bool | InvertedRows = False
    """Invert all images, or those of some rows, so that bone is white."""

    def __post_init__(self) -> None:
        check_ranges(self, "image")


@dataclass(frozen=True, kw_only=True)
class ShardSize:
    """How many samples a tar file holds."""

    samples: Annotated[int, Range(min=1)] = 1000
    """Maximum number of samples per shard."""

    def __post_init__(self) -> None:
        check_ranges(self, "shard")


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """A table with one row per box that a person drew around a finding; its defaults are those of NIH ChestX-ray14."""

    table: str
    """A .csv, .tsv (both also .gz) or .parquet file, relative to --source, in whose name `*` fits any text."""
    image: str = "Image Index"
    """Column of the image, named as the reader names it: as in columns.image, or the image id of the data set."""
    label: str = "Finding Label"
    """Column of the finding."""
    box: tuple[str, str, str, str] = ("Bbox [x", "y", "w", "h]")
    """Columns of the left edge, the upper edge, the width and the height, in pixels."""
    size: tuple[int, int] | None = None
    """Width and height in pixels of the images that the boxes were drawn on, if they are larger or smaller than the
    image files. By default the boxes are in pixels of the files."""
    classes: dict[str, Values] = field(default_factory=dict)
    """Class -> further names that the table has for it, in which `*` matches any text. A finding that is named like a
    class belongs to it; boxes of other findings are left out."""

    def __post_init__(self) -> None:
        require(self.size is None or min(self.size) > 0, f"boxes.size is {self.size}; expected two positive numbers")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The size of the synthetic data."""

    studies: Annotated[int, Range(min=1)] = 1000
    """Number of studies; most have one image, some have a frontal and a lateral one."""
    side: Annotated[int, Range(min=32, max=1024)] = 128
    """Height and width of an image in pixels."""
    seed: Annotated[int, Range(min=0, max=2**32 - 1)] = 0
    """Seed of all images and reports."""

    def __post_init__(self) -> None:
        check_ranges(self, "demo")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one data set becomes shards."""

    reader: str
    """Reader for the layout of the source: openi, mimic_cxr_jpg, table, dicom, demo, or your own as MODULE:NAME or
    FILE.py:NAME (see shard/readers/own_reader.py). Your own reader may use any field below."""
    table: str | None = None
    """Relative to --source. table: a .csv, .tsv (both also .gz) or .parquet file, in whose name `*` fits any text.
    openi: a .csv of views (optional). mimic_cxr_jpg: the .csv.gz with the labels of each study."""
    images: str = "images"
    """All readers but demo: folder of the images, relative to --source. table: may contain `*` and `**` and then names
    several folders, in one of which each image lies."""
    reports: str | None = "ecgen-radiology"
    """Relative to --source. openi: folder of the XML reports. mimic_cxr_jpg: folder or .zip of the .txt reports, or
    null for no reports."""
    image_ending: Literal[".jpg", ".dcm"] = ".jpg"
    """mimic_cxr_jpg: the ending of the image files; .dcm for the DICOM edition (MIMIC-CXR) in the same folders."""
    patients: str | None = None
    """mimic_cxr_jpg: MIMIC-IV's patients.csv.gz, relative to --source, for sex and age (optional)."""
    demo: Demo = field(default_factory=Demo)
    """demo: the size of the synthetic data."""
    where: dict[str, Values] = field(default_factory=dict)
    """Field of a record (table: a column; dicom: a tag such as Manufacturer) -> values to keep; all other rows are
    excluded."""
    views: Literal["frontal", "lateral", "all"] = "all"
    """The projection to keep. Images of any other or an unknown view are kept only by `all`."""
    samples: Literal["image", "study"] = "image"
    """Whether a sample is one image, or the images of a study with their common report. Independent of `split.by`."""
    max_views: Annotated[int, Range(min=2, max=MOST_VIEWS)] = 2
    """samples: study: maximum number of images per study, 2 or more; the first frontal and lateral one come first."""
    columns: Columns | None = None
    """table: which column holds what. dicom: the columns of labels and text."""
    join: Join | None = None
    """dicom: how a row of `table` finds its files."""
    dicom: DicomTags = field(default_factory=DicomTags)
    """dicom: which tag holds what."""
    labels: Labels = field(default_factory=Labels)
    """How label values map to classes."""
    boxes: Boxes | None = None
    """Boxes around findings. They are stored with the samples, and `cxr-dist evaluate --boxes` compares heat maps with
    them."""
    prompts: ClassPrompts = field(default_factory=dict)
    """Class -> sentences that say that it is `present` or `absent`, for the zero-shot classification of contrastive
    pretraining. For every class or for none, in which case they are made of the names of the classes."""
    redact: Values = ()
    """Terms that name the classes. They are replaced in all text sections, so that reports do not reveal the label."""
    split: Split = field(default_factory=Split)
    """How samples are divided into train, val and test."""
    image: ImageFormat = field(default_factory=ImageFormat)
    """Format of the stored images."""
    shard: ShardSize = field(default_factory=ShardSize)
    """Size of the shards."""

    @property
    def views_per_sample(self) -> int:
        """Maximum number of images per sample."""
        return self.max_views if self.samples == "study" else 1

    def __post_init__(self) -> None:
        check_ranges(self)
        Redaction(terms=self.redact)  # checks the terms
        if self.labels.classes:
            check_prompts(self.prompts, tuple(self.labels.classes), self.labels.task)
        require(
            self.samples == "image" or self.split.by != "image",
            "samples: study keeps the images of a study together: use split.by study or patient",
        )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a file, or one of the package by its name, such as `openi`.

    Raises UserError for a missing file, invalid YAML, or an unknown or ill-typed field. A reader's FILE.py is looked up
    in the working directory first, then in the folder of the recipe.
    """
    named = recipe_files()
    if not path.is_file():
        if str(path) not in named:
            raise UserError(
                f"no recipe {path}: expected a YAML file, or the name of a recipe of the package, one of "
                f"{', '.join(named)}"
            )
        path = named[str(path)]
    recipe = decode(Recipe, parse_yaml(path), path.name, by_hand=True)
    file, _, name = recipe.reader.rpartition(":")
    places = (Path(file).expanduser(), path.parent / file) if file.endswith(".py") else ()
    found = next((place.resolve() for place in places if place.is_file()), None)
    return recipe if found is None else replace(recipe, reader=f"{found}:{name}")
