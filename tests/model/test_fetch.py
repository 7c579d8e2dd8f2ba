"""`cxr-dist fetch` with a local stand-in hub: damaged and interrupted downloads, concurrent processes and refusals."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save
from stand_in_hub import NAME, REVISION, Hub, as_bytes, old_names
from torchvision.models import DenseNet, densenet121

from cxr_dist.errors import UserError
from cxr_dist.files import locked
from cxr_dist.model.classifier import load_text_encoder
from cxr_dist.model.fetch import fetch
from cxr_dist.model.text_encoder import TextEncoder
from cxr_dist.model.weights import component_weights, resolve_text_encoder, verify_component

WEIGHTS = "pytorch_model.bin"


def test_a_fetched_bundle_loads_without_network(hub: Hub, tmp_path: Path) -> None:
    hub.fetch(tmp_path / "bundle")
    folder = resolve_text_encoder(NAME, tmp_path / "bundle")
    assert sorted(p.name for p in folder.iterdir()) == [
        "bundle.json",
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    load_text_encoder(TextEncoder(folder), folder)
    weights = component_weights(tmp_path / "bundle", "densenet121")
    DenseNet(growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8).load_state_dict(weights, strict=True)
    source = json.loads((folder / "bundle.json").read_text())["source"]
    assert source == {"repository": NAME, "revision": REVISION}


def test_old_densenet_names_differ_from_torchvisions_present_names(
    published: tuple[dict[str, bytes], bytes],
) -> None:
    today = densenet121(weights=None).state_dict().keys()
    old = old_names(dict.fromkeys(today, torch.zeros(1))).keys()
    assert sum(name not in today for name in old) == 58 * 12  # 58 layers, 2 × (conv, and 5 tensors of a norm)


def test_a_second_fetch_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.fetch(tmp_path)
    hub.requests.clear()
    hub.fetch(tmp_path)
    assert hub.requests == []


def test_safetensors_are_preferred_and_the_bin_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = save({"weight": torch.arange(3.0)})
    hub.fetch(tmp_path)
    assert (tmp_path / NAME / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert not any(WEIGHTS in request for request in hub.requests)


def test_a_file_that_is_not_safetensors_despite_its_name_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = b"version https://git-lfs.github.com/spec/v1"
    with pytest.raises(UserError, match=r"model\.safetensors on the hub is not a safetensors file"):
        hub.fetch(tmp_path)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("name", [WEIGHTS, "vocab.txt", "densenet"])
def test_a_flipped_bit_leaves_no_component_under_its_name(hub: Hub, tmp_path: Path, name: str) -> None:
    file = hub.densenet_name if name == "densenet" else name
    good = hub.densenet if name == "densenet" else hub.files[name]
    hub.sent[file] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(UserError, match=r"arrived damaged: its hash is not the published one, [0-9a-f]{8,16}…"):
        hub.fetch(tmp_path)
    assert not (tmp_path / ("densenet121" if name == "densenet" else NAME)).exists()
    hub.sent.clear()
    hub.fetch(tmp_path)
    verify_component(tmp_path / NAME)
    assert hub.requests.count("GET config.json") == 1, "a complete file must be kept"
    assert hub.requests.count(f"GET {file}") == 2, "a damaged file must be requested again from its first byte"


@pytest.mark.parametrize("name", [WEIGHTS, "densenet"])
def test_an_interrupted_download_continues_where_it_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # An interruption can lose one chunk, which is 10 MB by default.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    file = hub.densenet_name if name == "densenet" else name
    size = len(hub.densenet if name == "densenet" else hub.files[name])
    hub.cut[file] = size // 2
    with pytest.raises(UserError, match=r"cannot fetch .*403.*the bundle is unchanged.*to continue"):
        hub.fetch(tmp_path)
    assert not (tmp_path / ("densenet121" if name == "densenet" else NAME)).exists()
    assert hub.requests.count(f"GET {file}") == 1
    hub.cut.clear()
    hub.fetch(tmp_path)
    verify_component(tmp_path / NAME)
    verify_component(tmp_path / "densenet121")
    start = size // 2 // 1000 * 1000
    assert hub.requests.count(f"GET {file} {start}-") == 2, "the refused request, and that of the next command"
    assert hub.requests.count(f"GET {file}") == 1, "the file must not be requested again from its first byte"
    assert hub.body_bytes[file] == size // 2 + size - start


def test_a_complete_download_that_was_not_renamed_is_not_requested_again(hub: Hub, tmp_path: Path) -> None:
    downloads = tmp_path / "densenet121.partial" / "download"
    downloads.mkdir(parents=True)
    (downloads / "densenet121.pth.part").write_bytes(hub.densenet)
    hub.fetch(tmp_path)
    verify_component(tmp_path / "densenet121")
    assert hub.body_bytes.get(hub.densenet_name, 0) == 0


def test_an_incomplete_download_of_another_file_is_deleted(hub: Hub, tmp_path: Path) -> None:
    downloads = tmp_path / "densenet121.partial" / "download"
    downloads.mkdir(parents=True)
    (downloads / "densenet121.pth.part").write_bytes(b"another file's first bytes")
    with pytest.raises(UserError, match=r"densenet121\.pth arrived damaged"):
        hub.fetch(tmp_path)
    hub.fetch(tmp_path)
    verify_component(tmp_path / "densenet121")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.busy = {name: [status, status] for name in ("api", "config.json", WEIGHTS, hub.densenet_name)}
    hub.fetch(tmp_path)
    verify_component(tmp_path / NAME)
    assert not any(hub.busy.values()), "each request must be repeated until the server is no longer busy"


@pytest.mark.parametrize("name", ["api", WEIGHTS])
def test_a_server_that_stays_busy_is_an_error(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.busy = {name: [503] * 1000}
    with pytest.raises(UserError, match=f"cannot fetch {NAME}: .*503"):
        hub.fetch(tmp_path)
    assert len(hub.busy[name]) >= 900
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_repeated(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.busy = {WEIGHTS: [status] * 10}
    with pytest.raises(UserError, match=f"cannot fetch {NAME}"):
        hub.fetch(tmp_path)
    assert len(hub.busy[WEIGHTS]) == 9


@pytest.mark.parametrize("change", [-7, 7])
def test_a_file_of_another_size_is_refused(hub: Hub, tmp_path: Path, change: int) -> None:
    good = hub.files[WEIGHTS]
    hub.sent[WEIGHTS] = good[:change] if change < 0 else good + bytes(change)
    with pytest.raises(UserError, match=rf"cannot fetch {NAME}: .*size {len(good)} but has size {len(good) + change}"):
        hub.fetch(tmp_path)
    hub.sent.clear()
    hub.fetch(tmp_path)
    verify_component(tmp_path / NAME)


def test_files_of_an_older_revision_do_not_enter_a_component(hub: Hub, tmp_path: Path) -> None:
    hub.files["tokenizer.json"] = b"{}"
    hub.busy[WEIGHTS] = [404]
    with pytest.raises(UserError, match="cannot fetch"):
        hub.fetch(tmp_path)
    del hub.files["tokenizer.json"]
    hub.fetch(tmp_path)
    assert not (tmp_path / NAME / "tokenizer.json").exists()


def test_only_one_of_several_processes_downloads(hub: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:  # the lock belongs to an open file, so threads behave like processes
        list(pool.map(lambda _: hub.fetch(tmp_path), range(4)))
    verify_component(tmp_path / NAME)
    assert hub.requests.count(f"GET {WEIGHTS}") == 1
    assert hub.requests.count(f"GET {hub.densenet_name}") == 1


def test_a_second_process_waits_for_the_first(hub: Hub, tmp_path: Path) -> None:
    with locked(tmp_path / "densenet121.lock"):
        second = threading.Thread(target=hub.fetch, args=(tmp_path,), daemon=True)
        second.start()
        second.join(0.5)
        assert second.is_alive()
        assert hub.requests == []
    second.join(60)
    assert (tmp_path / NAME / "bundle.json").is_file()


def test_the_error_for_a_full_disk_says_so(hub: Hub, full_disk: Path) -> None:
    with pytest.raises(UserError, match=r"cannot fetch densenet121: .*No space left on device"):
        hub.fetch(full_disk)
    assert not (full_disk / "densenet121").exists()


def test_an_unknown_model_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fetch group/other"):
        fetch(tmp_path, text_encoder="group/other", endpoint=hub.url, densenet_url=hub.densenet_url)


def test_a_model_without_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    del hub.files["pytorch_model.bin"]
    with pytest.raises(UserError, match=r"no config\.json with model\.safetensors or pytorch_model\.bin"):
        hub.fetch(tmp_path)


class Intruder:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, (str(self.path), "w")


def test_code_hidden_in_weights_does_not_run(hub: Hub, tmp_path: Path) -> None:
    hub.files["pytorch_model.bin"] = as_bytes({"weight": Intruder(tmp_path / "ran")})
    with pytest.raises(UserError, match=r"pytorch_model\.bin does not contain tensors only .* could contain a program"):
        hub.fetch(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / NAME).exists()


def test_a_folder_that_fetch_did_not_create_is_not_overwritten(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "densenet121").mkdir()
    (tmp_path / "densenet121" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=r"was not created by `cxr-dist fetch`"):
        hub.fetch(tmp_path)
    assert (tmp_path / "densenet121" / "mine.txt").read_text() == "keep"
