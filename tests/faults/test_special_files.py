"""A FIFO, a socket, a device, a link to itself or a folder in place of a file is never waited for, wherever it is."""

from pathlib import Path

import pytest
from bad_files import SPECIAL, put

from cxr_dist.config.model import ModelConfig
from cxr_dist.data.read import reader
from cxr_dist.data.store import ShardStore
from cxr_dist.errors import UserError
from cxr_dist.files import open_regular
from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import UNREADABLE_IMAGE, ImageProblem
from cxr_dist.format.manifest import load_manifest
from cxr_dist.inference.cases import NamedCase, read_input
from cxr_dist.inference.given_case import SectionRules
from cxr_dist.model.weights import verify_component
from cxr_dist.run.checkpoint import newest_valid
from cxr_dist.shard.verify import verify

pytestmark = pytest.mark.usefixtures("no_hang")
EACH = pytest.mark.parametrize("kind", SPECIAL)


@EACH
def test_an_image_is_left_out(tmp_path, tried, kind):
    put(kind, tmp_path / "image.png")
    with pytest.raises(ImageProblem, match=UNREADABLE_IMAGE):
        ImageFile(path=tmp_path / "image.png").read(64)
    tried(f"{kind} as an image of predict", "left out and counted")


@EACH
def test_a_report_is_refused_by_predict(tmp_path, tried, kind):
    put(kind, tmp_path / "report.txt")
    case = NamedCase(row=1, name="image.png", image=tmp_path / "image.png", report=tmp_path / "report.txt")
    with pytest.raises(UserError, match="the report cannot be read"):
        case.read(None)
    tried(f"{kind} as a report of predict", "refused in one line")


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "a folder"])
def test_a_folder_of_cases_does_not_skip_it(tmp_path, tried, kind):
    put(kind, tmp_path / "image.png")
    cases = read_input(tmp_path, ModelConfig(mode="image"), SectionRules(read=(), stored=(), reader="table"))
    assert [case.name for case in cases.cases()] == ["image.png"]
    tried(f"{kind} in the folder of predict --input", "left out and counted")


@EACH
@pytest.mark.parametrize("name", ["manifest.json", "train-00000.tar", "train-00000.index.npy"])
def test_a_file_of_a_shard_folder_is_noticed(shards, tried, kind, name):
    put(kind, shards / name)
    with pytest.raises(UserError):
        read_all(shards)
    try:
        problems = verify(shards)
    except UserError as error:
        problems = [str(error)]
    assert len(problems) >= 1
    assert name in problems[0]
    tried(f"{kind} as {name} of shards", "noticed")


def read_all(folder: Path) -> None:
    manifest = load_manifest(folder)
    store = ShardStore(folder, manifest, "train")
    read = reader(store, manifest.image["short_side"], 64)
    for shard, entry in enumerate(store.shards):
        for sample in range(entry.samples):
            read(shard, sample)


@EACH
def test_a_file_of_a_checkpoint_is_refused(tmp_path, tried, kind):
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    put(kind, checkpoint / "sha256.json")
    with pytest.raises(UserError, match="no checkpoint can be loaded: step-00000001: incomplete or unreadable"):
        newest_valid(tmp_path)
    tried(f"{kind} as a file of a checkpoint", "refused in one line")


@EACH
def test_a_file_of_a_weights_bundle_is_refused(tmp_path, tried, kind):
    (tmp_path / "bundle.json").write_text('{"sha256": {"model.safetensors": "00"}}')
    put(kind, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors in the weights bundle is missing or damaged"):
        verify_component(tmp_path)
    tried(f"{kind} as a file of a weights bundle", "refused in one line")


@EACH
def test_nothing_but_a_regular_file_is_opened(tmp_path, kind):
    put(kind, tmp_path / "file")
    with pytest.raises(OSError, match=r"not a regular file|Too many levels of symbolic links"):
        open_regular(tmp_path / "file")
