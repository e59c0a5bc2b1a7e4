"""An S3 server (moto) behind a proxy that makes faults, and a web server of a folder, for one test.

Prints the addresses as JSON, then runs each line of standard input (a JSON string of Python) and prints what it left
in ``value``; ends with standard input. Names it may use: ``s3`` (a boto3 client past the proxy), ``keys``,
``put``, ``options`` (for deltalake), ``proxy`` (``proxy.every`` maps a fault to how often it comes, ``proxy.made``
counts).
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import itertools
import json
import logging
import os
import pathlib
import sys
import threading
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
REFUSED = b"<Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist in our records.</Message></Error>"


class Proxy(http.server.ThreadingHTTPServer):
    """Hands requests on to S3; every so many it answers an error, hangs, or drops the connection in a body.

    Faults: ``500``, ``503``, ``403``; ``hang`` (no answer); ``lost`` (a PUT is done, its answer is an error); ``drop``
    (half the body of a GET).
    """

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.every: dict[str, int] = {}
        self.made: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()
        self.seen: collections.Counter[str] = collections.Counter()

    def fault(self, method: str, kinds: tuple[str, ...]) -> str | None:
        with self.lock:
            for kind in kinds:
                if kind not in self.every or (kind == "lost" and method != "PUT") or (kind == "drop" and method != "GET"):
                    continue
                self.seen[kind] += 1
                if self.seen[kind] % self.every[kind] == 0:
                    self.made[kind] += 1
                    return kind
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.server.fault(self.command, ("403", "500", "503", "hang")):
            case "hang":
                threading.Event().wait(30)
                self.close_connection = True
                return
            case "403":
                return self.answer(403, [], REFUSED)
            case str(status):
                return self.answer(int(status), [], b"<Error><Code>SlowDown</Code></Error>")
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
        upstream.request(self.command, self.path, body=body, headers=headers)
        response = upstream.getresponse()
        content = response.read()
        if response.status < 300 and self.server.fault(self.command, ("lost",)):
            return self.answer(500, [], b"<Error><Code>InternalError</Code></Error>")
        length = int(response.headers.get("Content-Length") or len(content))
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in HOP_BY_HOP]
        cut = len(content) > 200 and self.server.fault(self.command, ("drop",))
        self.answer(response.status, kept, content, length=length, cut=bool(cut))

    def answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, length: int | None = None, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        pass


class Web(http.server.SimpleHTTPRequestHandler):
    """Serves the files of the working directory, in ranges too."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        file = pathlib.Path(self.translate_path(self.path))
        if asked is None or not file.is_file():
            return super().do_GET()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        content = file.read_bytes()
        start = int(first) if first else len(content) - int(last)
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        self.end_headers()
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


def serve(server: http.server.HTTPServer) -> str:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def main() -> None:
    logging.disable()
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with contextlib.redirect_stdout(sys.stderr):
        moto.start()
    host, port = moto.get_host_and_port()
    direct = f"http://{host}:{port}"
    proxy = Proxy((host, port))
    s3 = boto3.client(
        "s3", endpoint_url=direct, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    options = {
        "AWS_ENDPOINT_URL": direct,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }

    def keys(bucket: str, prefix: str = "") -> list[str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(o["Key"] for o in itertools.chain.from_iterable(p.get("Contents", []) for p in pages))

    def put(bucket: str, key: str, content: str | bytes) -> None:
        s3.put_object(Bucket=bucket, Key=key, Body=content.encode() if isinstance(content, str) else content)

    names: dict[str, Any] = {"s3": s3, "keys": keys, "put": put, "options": options, "proxy": proxy}
    web = serve(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web))
    print(json.dumps({"s3": serve(proxy), "direct": direct, "web": web}), flush=True)
    for line in sys.stdin:
        code = json.loads(line)
        try:
            exec(code, names)
            reply = {"value": names.pop("value", None)}
        except Exception as error:  # noqa: BLE001 (whatever it is, the test has to see it)
            reply = {"error": repr(error)}
        print(json.dumps(reply), flush=True)
    # moto's threads would be waited for.
    os._exit(0)


main()
