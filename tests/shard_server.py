"""A server of a shard folder, plain HTTP and S3 at once, that counts requests and misbehaves when told to.

S3's GetObject with path-style addresses is a GET of /BUCKET/KEY, so one handler answers both.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ShardServer(ThreadingHTTPServer):
    """Serves FOLDER/* as /bucket/shards/*."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.requests = folder, Counter[str]()
        self.damaged: Counter[str] = Counter()  # name -> answers still to be given with a flipped byte
        self.stalled: dict[str, threading.Event] = {}  # name -> half of it is sent; the rest when the event is set
        self.half_sent = threading.Event()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/bucket/shards"

    @property
    def s3_environment(self) -> dict[str, str]:
        """What a user of another S3 than Amazon's sets."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ShardServer

    def do_GET(self) -> None:
        name = self.path.split("?")[0].rpartition("/")[2]
        self.server.requests[name] += 1
        file = self.server.folder / name
        known = self.path.startswith("/bucket/shards/") and file.is_file()
        body = bytearray(file.read_bytes() if known else b"<Error><Code>NoSuchKey</Code></Error>")
        if known and self.server.damaged[name] > 0:
            self.server.damaged[name] -= 1
            body[len(body) // 2] ^= 1
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        self.wfile.write(body[:half])
        if name in self.server.stalled:
            self.server.half_sent.set()
            self.server.stalled[name].wait(20)
        self.wfile.write(body[half:])

    do_HEAD = do_GET  # S3's HeadObject

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client was killed
            super().handle()


@contextmanager
def serving(folder: Path) -> Iterator[ShardServer]:
    """A running server of a shard folder."""
    server = ShardServer(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
