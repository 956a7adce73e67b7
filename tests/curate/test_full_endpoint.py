"""Merging through an OpenAI-compatible endpoint, against a server on this machine that gives prepared answers."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from curate.models.full.endpoint import EndpointError, EndpointMerger
from curate.models.full.merge import request

PAIR = ("a dog", "a dog runs on a beach")


class Server(ThreadingHTTPServer):
    """Gives `replies` in turn, the last one for ever, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list = []
        self.asked: list[tuple[str, dict, dict]] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append((self.path, dict(self.headers), body))
            reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        code, headers, text = reply(body) if callable(reply) else reply
        with server.lock:
            server.busy -= 1
        if code is None:  # hang up without a word
            self.connection.close()
            return
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def says(text: str | None) -> tuple[int, dict, bytes]:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def merger(server: Server, **changes) -> EndpointMerger:
    return EndpointMerger(**{"url": server.url, "model": "tiny", "pause": 0.01, "timeout": 5.0, **changes})


def test_one_chat_completion_a_complete_pair(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret")
    server.replies = [says('"A dog runs on a beach."')]
    model = merger(server, api_key_env="TEST_KEY")
    assert model.merge([PAIR, ("only this", None), (None, None)]) == ["A dog runs on a beach.", "only this", None]
    [(path, headers, body)] = server.asked
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "tiny" and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": request(*PAIR)}]
    assert "tiny" in model.name and EndpointMerger.weights(url=server.url, model="tiny") == []
    assert merger(server, url=server.url + "/chat/completions/").url == model.url


def test_no_key_no_header(server):
    server.replies = [says("x")]
    merger(server).merge([PAIR])
    assert "Authorization" not in server.asked[0][1]


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "0"}, b"slow down"),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
        (None,) * 3,
    ],
)
def test_passing_trouble_is_retried(server, trouble):
    server.replies = [trouble, trouble, says("a dog runs")]
    assert merger(server, retries=2).merge([PAIR]) == ["a dog runs"]
    assert len(server.asked) == 3


def test_lasting_trouble_names_url_reason_and_mend(server):
    server.replies = [(500, {}, b"out of memory")]
    with pytest.raises(
        EndpointError, match=r"127\.0\.0\.1.*no answer after 3 attempts.*HTTP 500.*out of memory.*retries"
    ):
        merger(server, retries=2).merge([PAIR])
    assert len(server.asked) == 3


def test_a_refused_key_is_not_retried_and_not_shown(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret")
    server.replies = [(401, {}, b"bad key sk-secret")]
    with pytest.raises(EndpointError, match=r"HTTP 401.*api_key_env") as error:
        merger(server, api_key_env="TEST_KEY").merge([PAIR])
    assert len(server.asked) == 1 and "sk-secret" not in str(error.value)


def test_a_redirect_is_an_error_and_the_key_stays_here(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret")
    server.replies = [(302, {"Location": server.url + "/elsewhere"}, b"")]
    with pytest.raises(EndpointError, match=r"HTTP 302.*check `url`"):
        merger(server, api_key_env="TEST_KEY").merge([PAIR])
    assert len(server.asked) == 1


@pytest.mark.parametrize("reply", [b"<html>hello</html>", b'{"choices": []}', b"[1]", b'{"error": "no"}', b"\xff"])
def test_a_malformed_reply_is_an_error_with_what_came(server, reply):
    server.replies = [(200, {}, reply)]
    with pytest.raises(EndpointError, match=r"not a chat completion.*check `url`"):
        merger(server).merge([PAIR])
    assert len(server.asked) == 1


def test_an_empty_answer_keeps_the_longer_caption(server):
    server.replies = [says(None)]
    assert merger(server).merge([PAIR]) == [PAIR[1]]


def test_silence_ends_at_the_timeout(server):
    def sleep(_: dict) -> tuple[int, dict, bytes]:
        time.sleep(1.0)
        return says("too late")

    server.replies = [sleep]
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"no answer after 2 attempts.*timed out.*timeout"):
        merger(server, timeout=0.1, retries=1).merge([PAIR])
    assert time.monotonic() - began < 0.9


def test_nobody_there(server):
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:1/.*refused.*check that the server is up"):
        merger(server, url="http://127.0.0.1:1/v1", retries=0).merge([PAIR])


def test_answers_keep_their_order_whatever_the_concurrency(server):
    def echo(body: dict) -> tuple[int, dict, bytes]:
        number = int(body["messages"][0]["content"].split("Frame caption: ")[1].split("\n")[0])
        time.sleep(0.05 if number % 2 else 0.0)
        return says(f"clip {number}")

    server.replies = [echo]
    pairs = [(str(i), "b") for i in range(12)]
    assert merger(server, concurrency=3).merge(pairs) == [f"clip {i}" for i in range(12)]
    assert 1 < server.busiest <= 3


def test_what_was_answered_is_not_paid_for_twice(server):
    """The stage repeats a failed batch clip by clip; the clips that were answered are not asked about again."""
    server.replies = [says("first"), (400, {}, b"too long"), says("second")]
    model = merger(server, concurrency=1)
    pairs = [("a", "b"), ("c", "d")]
    with pytest.raises(EndpointError, match="HTTP 400"):
        model.merge(pairs)
    assert [model.merge([pair])[0] for pair in pairs] == ["first", "second"]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "file:///etc/passwd"}, "url must be http"),
        ({"url": "http://user:pass@host/v1"}, "without a user or key"),
        ({"timeout": 0}, "timeout > 0"),
        ({"api_key_env": "NO_SUCH_VARIABLE_HERE"}, "environment variable NO_SUCH_VARIABLE_HERE is not set"),
    ],
)
def test_settings_are_checked_at_the_start(changes, reason):
    with pytest.raises(ValueError, match=reason):
        EndpointMerger(**{"url": "http://host/v1", "model": "tiny", **changes})
