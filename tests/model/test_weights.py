"""Fetching and verifying the weights bundle, against a stand-in hub on this machine: good bytes and bad bytes."""

import hashlib
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.utils.sha import git_hash
from safetensors.torch import load_file
from torchvision.models import DenseNet, densenet121
from transformers import BertConfig, BertForMaskedLM

from cxr_dist.errors import UserError
from cxr_dist.model.classifier import load_text_encoder
from cxr_dist.model.text import TextEncoder
from cxr_dist.model.weights import bundle_folder, fetch, image_weights, resolve_text_encoder, verify_component

NAME, REVISION = "group/clinical-bert", "c0ffee" + "0" * 34


def as_bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As torchvision's published files have them: norm.1 where today's module says norm1."""
    return {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])", r"\1.\2", k): v for k, v in state.items()}


@dataclass
class Hub:
    """What the stand-in serves; `sent` may differ from what it claims to have."""

    files: dict[str, bytes]
    densenet: bytes
    sent: dict[str, bytes] = field(default_factory=dict)
    cut: str = ""
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def densenet_url(self) -> str:
        return f"{self.url}/models/densenet121-{hashlib.sha256(self.densenet).hexdigest()[:8]}.pth"

    def fetch(self, out: Path) -> None:
        fetch(out, text_encoder=NAME, endpoint=self.url, densenet_url=self.densenet_url)

    def info(self) -> bytes:
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
            if name.endswith((".bin", ".safetensors")):
                lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
                entry |= {"lfs": lfs, "blobId": "0" * 40}
            siblings.append(entry)
        return json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """The hub's three addresses: a model's files, one file, and torchvision's download folder."""

    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        name = path.rsplit("/", 1)[-1]
        self.hub.requests.append(f"{self.command} {name}")
        if path.startswith(f"/api/models/{NAME}"):
            content = self.hub.info()
        elif path.startswith("/models/"):
            content = self.hub.sent.get("densenet", self.hub.densenet)
        elif path.startswith(f"/{NAME}/resolve/{REVISION}/") and name in self.hub.files:
            content = self.hub.sent.get(name, self.hub.files[name])
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if name == self.hub.cut else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, bytes], bytes]:
    """The files of a small masked language model (weights as .bin only), and a DenseNet with old names."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=30, **sizes)
    files = {
        "config.json": config.to_json_string().encode(),
        "vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n",
        "pytorch_model.bin": as_bytes(BertForMaskedLM(config).state_dict()),
        "README.md": b"not needed",
    }
    narrow = DenseNet(growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8)
    return files, as_bytes(old_names(narrow.state_dict()))


@pytest.fixture
def hub(published: tuple[dict[str, bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running stand-in; the client may use the network (this machine's) for as long."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    files, densenet = published
    state = Hub(files=dict(files), densenet=densenet)
    handler = type("BoundHandler", (Handler,), {"hub": state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


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
    weights = image_weights(tmp_path / "bundle")
    DenseNet(growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8).load_state_dict(
        weights, strict=True
    )
    source = json.loads((folder / "bundle.json").read_text())["source"]
    assert source == {"repository": NAME, "revision": REVISION}


def test_old_densenet_names_become_torchvisions(published: tuple[dict[str, bytes], bytes]) -> None:
    today = densenet121(weights=None).state_dict().keys()
    old = old_names(dict.fromkeys(today, torch.zeros(1))).keys()
    assert sum(name not in today for name in old) == 58 * 12  # 58 layers, 2 × (conv, and 5 tensors of a norm)


def test_a_second_fetch_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.fetch(tmp_path)
    hub.requests.clear()
    hub.fetch(tmp_path)
    assert hub.requests == []


def test_safetensors_are_preferred_and_the_bin_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = b"bytes that the hub vouches for"
    hub.fetch(tmp_path)
    assert (tmp_path / NAME / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_wrong_bytes_from_the_hub_put_nothing_under_the_name(hub: Hub, tmp_path: Path) -> None:
    good = hub.files["pytorch_model.bin"]
    hub.sent["pytorch_model.bin"] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(UserError, match=r"pytorch_model\.bin arrived damaged: its hash is [0-9a-f]{16}"):
        hub.fetch(tmp_path)
    assert not (tmp_path / NAME).exists()
    hub.sent.clear()
    hub.fetch(tmp_path)
    verify_component(tmp_path / NAME)
    assert hub.requests.count("GET config.json") == 1, "the second run continues"


def test_a_wrong_small_file_is_noticed_too(hub: Hub, tmp_path: Path) -> None:
    hub.sent["vocab.txt"] = b"[PAD]\n[UNK]\n[CLS]\n[SEP]?"
    with pytest.raises(UserError, match=r"vocab\.txt arrived damaged"):
        hub.fetch(tmp_path)
    assert not (tmp_path / NAME).exists()


def test_a_cut_connection_puts_nothing_under_the_name(hub: Hub, tmp_path: Path) -> None:
    hub.cut = "vocab.txt"
    with pytest.raises(UserError, match=f"cannot fetch {NAME}: .*nothing was put under its name"):
        hub.fetch(tmp_path)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_wrong_densenet_file_is_refused(hub: Hub, tmp_path: Path, damage: str) -> None:
    if damage == "cut":
        hub.cut = hub.densenet_url.rsplit("/", 1)[-1]
    else:
        hub.sent["densenet"] = hub.densenet[:-1] + b"\xff\xff"
    with pytest.raises(UserError, match=r"cannot fetch densenet121: .*invalid hash value"):
        hub.fetch(tmp_path)
    assert not (tmp_path / "densenet121").exists()


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
    with pytest.raises(UserError, match=f"cannot fetch {NAME}"):
        hub.fetch(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / NAME).exists()


def test_a_folder_of_someone_elses_is_not_overwritten(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "densenet121").mkdir()
    (tmp_path / "densenet121" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=r"`cxr-dist fetch` did not make it"):
        hub.fetch(tmp_path)
    assert (tmp_path / "densenet121" / "mine.txt").read_text() == "keep"


def test_a_flipped_bit_in_the_bundle_is_noticed_on_load(hub: Hub, tmp_path: Path) -> None:
    hub.fetch(tmp_path)
    for component, load in ((NAME, load_text), ("densenet121", load_image)):
        file = tmp_path / component / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        load_file(file)  # safetensors itself does not notice
        with pytest.raises(UserError, match=r"model\.safetensors .* damaged: remove .*cxr-dist fetch"):
            load(tmp_path)


def load_text(bundle: Path) -> None:
    folder = resolve_text_encoder(NAME, bundle)
    load_text_encoder(TextEncoder(folder), folder)


def load_image(bundle: Path) -> None:
    image_weights(bundle)


def test_a_missing_text_encoder_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cxr-dist fetch.*--model\.weights DIR.*--model\.pretrained false"):
        resolve_text_encoder(NAME, tmp_path)


def test_a_local_folder_comes_before_the_bundle(bert_folder: Path, tmp_path: Path) -> None:
    assert resolve_text_encoder(str(bert_folder), tmp_path) == bert_folder


def test_the_bundle_is_where_the_option_then_the_environment_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_DIST_WEIGHTS", "/environment")
    assert bundle_folder("/option") == Path("/option")
    assert bundle_folder("") == Path("/environment")
    monkeypatch.delenv("CXR_DIST_WEIGHTS")
    assert bundle_folder("") == Path.home() / ".cache" / "cxr_dist" / "weights"
