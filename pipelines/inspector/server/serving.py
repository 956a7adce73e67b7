"""Start the server, say where it is, open the page, and end with the terminal."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from curate.base.files import cache_folder
from curate.base.store import is_remote, store_of
from pipelines.inspector.data.inspected import place_of_dataset
from pipelines.inspector.data.session import Session
from pipelines.inspector.panel import Panel
from pipelines.inspector.panels import PANELS
from pipelines.inspector.runs.fetched import FetchedRun
from pipelines.inspector.runs.page import is_run, run_app
from pipelines.inspector.server.app import make_app
from pipelines.inspector.server.guard import Guard, hosts_of, loopback, new_token


class ServeError(Exception):
    """A server that cannot be started. One line."""


def serve(
    dataset: str,
    *,
    host: str,
    port: int,
    browser: bool,
    ask_token: bool = False,
    cache: str | None = None,
    panels: Sequence[type[Panel]] = (),
) -> None:
    """Serve until interrupted. panels: of plugins, beside those of Winnow. Raises ServeError, PanelError."""
    root = place_of_dataset(dataset)
    if not is_remote(root) and not Path(root).is_dir():
        raise ServeError(f"{dataset}: there is no such folder; name one that `winnow annotate`, `select` or `run` made")
    listener = listen(host, port)
    token = new_token() if ask_token or not loopback(host) else None
    session = None if is_run(root) else Session(root, Path(cache) if cache else cache_folder() / "inspector")
    if session is None:
        app = Guard(_run_app(root), hosts=hosts_of(host), token=token)
    else:
        app = make_app(session, hosts=hosts_of(host), token=token, panels=[*PANELS, *panels])
    address = address_of(host, listener.getsockname()[1], token)
    print(f"winnow inspect: {root}\n{address}", flush=True)
    if not loopback(host):
        print(
            "anyone with this address can see the clips and write labels; the connection is not encrypted", flush=True
        )
    if browser:
        timer = threading.Timer(0.5, webbrowser.open, [address])
        timer.daemon = True
        timer.start()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn hands on the interrupt that ended it
        uvicorn.Server(config).run(sockets=[listener])
    if (
        session and session.state == "loading"
    ):  # interrupted while a thread reads: nothing is being written, and it cannot be asked to stop
        os._exit(0)


def _run_app(root: str) -> Any:
    """The page of a training run; of one in a bucket what the page shows is fetched into a folder of this process."""
    if not is_remote(root):
        return run_app(Path(root))
    scratch = tempfile.mkdtemp(prefix="winnow-run-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    fetched = FetchedRun(store_of(root), Path(scratch))
    return run_app(fetched.root, fetched)


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # a browser may ask before the server is up: it waits
        return listener
    except OSError as error:
        raise ServeError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}): choose another --port or --host"
        ) from None


def address_of(host: str, port: int, token: str | None) -> str:
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
