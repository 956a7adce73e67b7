import http.client
import json
import os
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from pipelines.inspector.data.session import Session
from pipelines.inspector.panels import PANELS
from pipelines.inspector.server.app import make_app
from pipelines.inspector.server.guard import hosts_of
from pipelines.inspector.server.serving import listen
from tests.pipelines.inspector import data
from tests.pipelines.inspector.browser import WITHOUT, launched


class Served:
    """A server in a thread, and what a browser would send to it."""

    def __init__(self, session, port):
        self.session, self.port = session, port
        self.address = f"http://127.0.0.1:{port}/"

    def ask(self, method, path, body=None, **headers):
        """(status, headers, bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Host": f"127.0.0.1:{self.port}"}
        if body is not None:
            sent |= {"Content-Type": "application/json", "X-Winnow": "1"}
            body = json.dumps(body)
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def get(self, path):
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path, body, status=200):
        found, _, answer = self.ask("POST", path, body)
        assert found == status, answer
        return json.loads(answer)


@contextmanager
def serving(root, cache, token=None, host="127.0.0.1", panels=PANELS):
    listener = listen("127.0.0.1", 0)
    session = Session(root, cache)
    app = make_app(session, hosts=hosts_of(host), token=token, panels=panels)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while session.state == "loading":
        time.sleep(0.01)
    try:
        yield Served(session, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def annotated(tmp_path_factory):
    """Not to be changed."""
    return data.make(tmp_path_factory.mktemp("inspected") / "annotated")


@pytest.fixture(scope="session")
def served(annotated, tmp_path_factory):
    with serving(annotated, tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    """A Chromium. Where none can be had the tests of the page fail, as a page that nobody opened is not tested; they are
    passed over only where the variable says so."""
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, launched(playwright) as browser:
        yield browser
