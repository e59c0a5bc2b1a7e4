"""A corpus behind a web server: the same batches as from local files, read in ranges."""

from __future__ import annotations

import http.server
import pathlib
import threading

import numpy as np
import pytest

import corpusmill


class Files(http.server.BaseHTTPRequestHandler):
    """Serves files with HEAD and ranges, as object stores do; it cannot list."""

    protocol_version = "HTTP/1.1"

    def _serve(self, *, body: bool) -> None:
        server: Server = self.server  # type: ignore[assignment]
        path = server.folder / self.path.lstrip("/").replace("%3D", "=")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            part = data[int(first) : end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
        else:
            part = data
            self.send_response(200)
        server.bytes_sent += len(part) if body else 0
        server.requests += 1
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 06:00:00 GMT")
        self.send_header("ETag", '"1"')
        self.end_headers()
        if body:
            self.wfile.write(part)

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    folder: pathlib.Path
    bytes_sent = 0
    requests = 0


@pytest.fixture
def server(warehouse):
    served = Server(("127.0.0.1", 0), Files)
    served.folder = pathlib.Path(warehouse.path)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    thread.join()


def test_object_storage_gives_the_same_batches(warehouse, server, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_address[1]}"
    arguments = {"pack": 64, "columns": ["label", "split"], "filter": "split = 'train'", "epochs": 1}
    local = corpusmill.Loader(warehouse.plan(**arguments))
    plan = corpusmill.Plan("posts", warehouse=url, cache_dir=tmp_path, global_batch=12, seed=3, **arguments)
    remote = corpusmill.Loader(plan)
    for a, b in zip(local, remote, strict=True):
        np.testing.assert_array_equal(a["input_ids"], b["input_ids"])
        assert a["label"] == b["label"]
    sent = server.bytes_sent
    assert 0 < remote.stats().blocks_read == len(list(tmp_path.glob("*.arrow")))
    again = corpusmill.Loader(corpusmill.Plan("posts", warehouse=url, cache_dir=tmp_path, global_batch=12, seed=3, **arguments))
    assert len(list(again)) == len(list(local))
    assert again.stats().blocks_read == 0
    assert server.bytes_sent - sent < sent / 4, "later epochs read manifest and row lengths only"


def test_a_server_without_the_corpus(server):
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.raises(corpusmill.CorpusmillError, match="nobody"):
        corpusmill.Plan("nobody", warehouse=url)
