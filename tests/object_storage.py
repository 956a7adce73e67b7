"""An S3 server for tests, in a process of its own: moto's, behind a gate that counts requests and makes some of them fail.

In a test: the fixture `storage` (tests/conftest.py) is a running `Storage`; `storage.bucket()` is an empty bucket's URL.
In a script: `with Storage() as storage: subprocess.run(..., env=os.environ | storage.environment)`.
By hand: `python -m tests.object_storage --port 9000 --bucket films --faults 7` prints what to export, and serves until it
is ended.

Which request fails is a function of the seed, of the request and of how many times it was made: it does not depend on
the order in which parallel requests arrive. No request fails more than `IN_A_ROW` times in a row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).parent.parent
CONTROL = "/_storage/"  # no bucket's name has an underscore
# "late": the request takes effect, and only the answer is an error or is lost
KINDS = ("500", "503", "late 500", "slow", "reset", "late reset", "cut")
IN_A_ROW = 3
SLOWEST = 0.3  # s
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


class Storage:
    """A running server. endpoint: its URL. environment: variables with which clients find it, and may write to it."""

    def __init__(self, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.object_storage", "--port", str(port), "--with-parent"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.endpoint = self.process.stdout.readline().decode().strip()
        if not self.endpoint:
            raise RuntimeError("the S3 server did not start")
        self.environment = KEYS | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
        self._names = itertools.count(1)

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.process.stdin.close()  # which ends it
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def bucket(self, name: str | None = None) -> str:
        """The URL of a new, empty bucket."""
        name = name or f"bucket-{next(self._names)}"
        make_bucket(self.endpoint, name)
        return f"s3://{name}"

    def counts(self) -> dict[str, Any]:
        """Since `reset`: requests and bytes_sent, of all; by_method {GET, HEAD, LIST, PUT, POST, DELETE: requests};
        by_key {"bucket/key": [requests of GET, bytes sent]}; faults {kind: requests}."""
        return _ask(self.endpoint, "counts")

    def reset(self) -> None:
        """Count from 0 again."""
        _ask(self.endpoint, "reset", {})

    def faults(
        self,
        seed: int | None,
        share: float = 0.1,
        kinds: Iterable[str] = KINDS,
        only: str = "",
        in_a_row: int = IN_A_ROW,
    ) -> None:
        """From now on `share` of the requests fail; seed None: none. only: methods, e.g. "GET LIST"; "": all."""
        asked = {"seed": seed, "share": share, "kinds": list(kinds), "only": only, "in_a_row": in_a_row}
        _ask(self.endpoint, "faults", asked)


def make_bucket(endpoint: str, name: str) -> None:
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT", headers={"Authorization": _SIGNED})
    urllib.request.urlopen(request, timeout=30).close()


# Moto reads only the region and the service of a signature.
_SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


def _ask(endpoint: str, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(endpoint + CONTROL + what, data, timeout=30) as answer:
        return json.load(answer)


# --- in the server's process


class Gate:
    """A WSGI application around the server's: counts, fails, and lets writers in one by one, so that conditions hold."""

    def __init__(self, server: Callable[..., Iterable[bytes]]) -> None:
        self.server, self.writing, self.lock = server, threading.Lock(), threading.Lock()
        self.seed: int | None = None
        self.share, self.kinds, self.only, self.in_a_row = 0.1, KINDS, "", IN_A_ROW
        self.made: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        self.methods: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.keys: dict[str, list[int]] = {}
        self.sent = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path.startswith(CONTROL):
            return self._control(path.removeprefix(CONTROL), environ, start)
        method = self._count(environ, path)
        fault, chance = self._fault(environ, method, path)
        if fault == "slow":
            time.sleep(chance.uniform(0.02, SLOWEST))
        elif fault == "reset":
            return _broken(environ)
        elif fault in ("500", "503"):
            return _error(start, fault)
        status: list[Any] = []
        body = self._served(environ, lambda *given: status.extend(given), method)
        if fault == "late reset":
            return _broken(environ)
        if fault == "late 500":
            return _error(start, "500")
        start(*status[:2])
        if fault == "cut" and body:
            body, cut = body[: chance.randrange(len(body))], True
        else:
            cut = False
        self._count_sent(method, path, len(body))
        return _cut(environ, body) if cut else [body]

    def _served(self, environ: dict[str, Any], start: Callable[..., Any], method: str) -> bytes:
        """The server's answer, whole."""
        if method in ("GET", "HEAD", "LIST"):
            return b"".join(self.server(environ, start))
        with self.writing:
            return b"".join(self.server(environ, start))

    def _count(self, environ: dict[str, Any], path: str) -> str:
        method = environ["REQUEST_METHOD"]
        if method == "GET" and "/" not in path.strip("/"):
            method = "LIST"
        with self.lock:
            self.methods[method] += 1
        return method

    def _count_sent(self, method: str, path: str, sent: int) -> None:
        with self.lock:
            self.sent += sent
            if method == "GET":
                found = self.keys.setdefault(unquote(path.lstrip("/")), [0, 0])
                found[0] += 1
                found[1] += sent

    def _fault(self, environ: dict[str, Any], method: str, path: str) -> tuple[str | None, random.Random]:
        if self.seed is None or (self.only and method not in self.only.split()):
            return None, random.Random(0)
        request = f"{method} {path}?{environ.get('QUERY_STRING')} {environ.get('HTTP_RANGE')}"
        with self.lock:
            self.made[request] += 1
            nth = self.made[request]
        chance = random.Random(f"{self.seed} {request} {nth}")
        if nth % (self.in_a_row + 1) == 0 or chance.random() >= self.share:
            return None, chance
        fault = chance.choice(self.kinds)
        if fault == "cut" and method not in ("GET", "LIST"):
            fault = "reset"
        with self.lock:
            self.failed[fault] += 1
        return fault, chance

    def _control(self, what: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        given = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self.lock:
            if what == "reset":
                self.reset()
            elif what == "faults":
                asked = json.loads(given)
                self.seed, self.share, self.kinds = asked["seed"], asked["share"], tuple(asked["kinds"])
                self.only, self.in_a_row = asked["only"], asked["in_a_row"]
                self.made.clear()
            found = {
                "requests": sum(self.methods.values()),
                "bytes_sent": self.sent,
                "by_method": dict(self.methods),
                "by_key": self.keys,
                "faults": dict(self.failed),
            }
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(found).encode()]


def _error(start: Callable[..., Any], status: str) -> Iterable[bytes]:
    code, reason = {"500": ("InternalError", "500 Internal Server Error"), "503": ("SlowDown", "503 Slow Down")}[status]
    start(reason, [("Content-Type", "application/xml")])
    return [f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]


def _broken(environ: dict[str, Any]) -> Iterable[bytes]:
    """Reset the connection without an answer."""
    _reset(environ["werkzeug.socket"])
    raise ConnectionResetError


def _cut(environ: dict[str, Any], body: bytes) -> Iterator[bytes]:
    """Part of a body, and a reset instead of the rest that its header promised."""
    yield body
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_WR)  # so that the part arrives
    raise ConnectionResetError


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())


def serve(port: int, buckets: Iterable[str], seed: int | None, share: float, with_parent: bool) -> None:
    """Serve until the process is ended; with_parent: until standard input ends."""
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None: ...

        def handle(self) -> None:
            with suppress(OSError, ValueError):
                super().handle()

    gate = Gate(create_backend_app("s3"))
    server = make_server("127.0.0.1", port, gate, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in buckets:
        make_bucket(endpoint, name)
    gate.seed, gate.share = seed, share
    gate.reset()
    if with_parent:
        print(endpoint, flush=True)
        sys.stdin.buffer.read()
        os._exit(0)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        print(f"export {name}={value}", flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="an S3 server for tests, with faults by a seed")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append", default=[], help="make this bucket; may be repeated")
    parser.add_argument("--faults", type=int, help="seed of the faults; without it there are none")
    parser.add_argument("--share", type=float, default=0.1, help="share of the requests that fail")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input does")
    asked = parser.parse_args()
    serve(asked.port, asked.bucket, asked.faults, asked.share, asked.with_parent)


if __name__ == "__main__":
    main()
