"""DICOM files in a table and in MIMIC's folders become the shards that the same images give as PNG or JPEG."""

import dataclasses
from pathlib import Path

from made_dicom import as_dicom
from mimic_tree import make_mimic
from table_source import contents, make_source, table_recipe

from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import DICOM_FRAMES, DICOM_MODALITY
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

MIMIC = load_recipe(Path(__file__).resolve().parents[2] / "shards" / "mimic_cxr_jpg.yaml")


def to_dicom(images: Path, pattern: str, ending: str) -> None:
    """Replace all images by DICOM files, every other one as MONOCHROME1."""
    for number, path in enumerate(sorted(images.rglob(pattern))):
        grey = ImageFile(path=path).read(4096)
        path.unlink()
        path.with_suffix(ending).write_bytes(as_dicom(grey, negative=number % 2 == 1))


def tars(folder: Path) -> dict[str, str]:
    return {name: sha256 for name, sha256 in contents(folder).items() if name.endswith(".tar")}


def test_a_table_of_dicom_files_gives_the_bytes_of_the_same_pngs(tmp_path):
    source = make_source(tmp_path / "source")
    write_shards(table_recipe(), source, tmp_path / "png", workers=0)
    to_dicom(source / "images", "*.png", ".png")  # the names stay, because the keys depend on them
    write_shards(table_recipe(), source, tmp_path / "dicom", workers=0)
    assert verify(tmp_path / "dicom") == []
    assert tars(tmp_path / "dicom") == tars(tmp_path / "png")


def test_other_dicom_files_are_left_out_by_reason_and_stop_nothing(tmp_path):
    source = make_source(tmp_path / "source")
    to_dicom(source / "images", "*.png", ".png")
    for name, more in (("1-0", {"Modality": "CT"}), ("2-0", {"NumberOfFrames": 2}), ("3-0", {"Modality": "SR"})):
        path = source / "images" / f"secret.film-{name}.png"
        path.write_bytes(as_dicom(ImageFile(path=path).read(4096), **more))
    manifest = write_shards(table_recipe(), source, tmp_path / "out", workers=0, allow_left_out=0)
    assert manifest.left_out == {DICOM_MODALITY: 2, DICOM_FRAMES: 1}


def test_the_dicom_edition_of_mimic_gives_the_bytes_of_its_jpegs_by_another_ending(tmp_path):
    source = make_mimic(tmp_path / "mimic")
    write_shards(MIMIC, source, tmp_path / "jpeg", workers=0)
    to_dicom(source / "files", "*.jpg", ".dcm")
    write_shards(dataclasses.replace(MIMIC, image_ending=".dcm"), source, tmp_path / "dicom", workers=0)
    assert tars(tmp_path / "dicom") == tars(tmp_path / "jpeg")
