"""A local stand-in for the model hub and torchvision's server, which can send correct and damaged files."""

import hashlib
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from huggingface_hub.utils.sha import git_hash

from cxr_dist.model.fetch import fetch

NAME, REVISION = "group/clinical-bert", "c0ffee" + "0" * 34


def as_bytes(state: dict[str, Any]) -> bytes:
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensor names of torchvision's published files: norm.1 instead of today's norm1."""
    return {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])", r"\1.\2", k): v for k, v in state.items()}


@dataclass
class Hub:
    """The files that the stand-in serves. The bytes in `sent` may differ from those that it lists."""

    files: dict[str, bytes]
    densenet: bytes
    sent: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    """File -> number of bytes after which the connection breaks. Later requests get 403 until the entry is removed."""
    busy: dict[str, list[int]] = field(default_factory=dict)
    """File (`api` for the listing) -> statuses of the responses to its next requests."""
    requests: list[str] = field(default_factory=list)
    """`GET config.json`, or `GET config.json 10-` with a range."""
    body_bytes: dict[str, int] = field(default_factory=dict)
    url: str = ""

    @property
    def densenet_name(self) -> str:
        """The file's name, which ends in the first digits of its sha256."""
        return f"densenet121-{hashlib.sha256(self.densenet).hexdigest()[:8]}.pth"

    @property
    def densenet_url(self) -> str:
        """The file's URL, in the form of torchvision's."""
        return f"{self.url}/models/{self.densenet_name}"

    def fetch(self, out: Path) -> None:
        """Run `cxr-dist fetch` with this hub."""
        fetch(out, text_encoder=NAME, endpoint=self.url, densenet_url=self.densenet_url)

    def info(self) -> bytes:
        """The listing of the model's files."""
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
            if name.endswith((".bin", ".safetensors")):
                lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
                entry |= {"lfs": lfs, "blobId": "0" * 40}
            siblings.append(entry)
        return json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings}).encode()

    def content(self, path: str) -> bytes | None:
        """The bytes sent for a path, or None if there is no such file."""
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"/api/models/{NAME}"):
            return self.info()
        if path.startswith("/models/"):
            return self.sent.get(name, self.densenet)
        if path.startswith(f"/{NAME}/resolve/{REVISION}/") and name in self.files:
            return self.sent.get(name, self.files[name])
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    """The hub's three addresses: a model's files, one file, and torchvision's download folder."""

    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name = "api" if path.startswith("/api/") else path.rsplit("/", 1)[-1]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.hub.requests.append(f"GET {name}" + (f" {wanted.group(1)}-" if wanted else ""))
        content, busy = self.hub.content(path), self.hub.busy.get(name)
        if busy:
            self.send_error(busy.pop(0))
        elif content is None:
            self.send_error(404)
        elif self.hub.body_bytes.get(name) and name in self.hub.cut:
            self.send_error(403)
        else:
            self._send(name, content, int(wanted.group(1)) if wanted else 0)

    def _send(self, name: str, content: bytes, start: int) -> None:
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[start:][: self.hub.cut.get(name)]
        self.wfile.write(body)
        self.hub.body_bytes[name] = self.hub.body_bytes.get(name, 0) + len(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """A context in which the stand-in accepts connections."""
    handler = type("BoundHandler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
