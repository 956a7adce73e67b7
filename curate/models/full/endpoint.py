"""Merging captions through an OpenAI-compatible endpoint (vLLM, llama.cpp, Ollama, a hosted model ...).

Only `POST .../chat/completions` is used, over the standard library. Requests are retried where that can help (429, 5xx,
timeouts, dropped connections), with growing pauses; every other answer is an error that names the URL and the fix.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator

from curate.base.section import Section
from curate.models.adapter import Adapter
from curate.models.full.merge import Pair, merge_pairs, request
from curate.models.roles import MERGE
from curate.weights import Weights

LONGEST_ANSWER = 4 << 20  # bytes; more is not a caption
LONGEST_PAUSE = 60.0  # seconds
FIXES = {
    400: "the server refused the request; check `model`",
    401: "the key was refused; check the variable named by `api_key_env`",
    403: "the key may not use this model; check `api_key_env` and `model`",
    404: "nothing answers there; check `url` (it ends in /v1) and `model`",
}


class EndpointError(Exception):
    """The endpoint gave no usable answer. The message names the URL, the reason and the fix, never the key."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host: it is an error instead."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class EndpointOptions(Section):
    kind: Literal["endpoint"] = "endpoint"
    url: str
    model: str
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key")
    max_tokens: int = Field(96, ge=1)
    timeout: float = Field(60.0, gt=0)
    retries: int = Field(4, ge=0)
    concurrency: int = Field(8, ge=1)

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        try:
            parts = urllib.parse.urlsplit(value)
            good = parts.scheme in ("http", "https") and parts.hostname and not (parts.username or parts.password)
        except ValueError:  # e.g. a bracket that is not closed
            good = False
        if not good:
            raise ValueError(
                "captions.merge.url must start with http:// or https:// and name a host, without a user or key in it"
            )
        return value


class EndpointMerger(Adapter):
    """Merger: one chat completion a pair, temperature 0, `concurrency` requests at a time.

    url: the endpoint's base, e.g. http://localhost:8000/v1, or the full .../chat/completions. model: its name there.
    api_key_env: name of the environment variable that holds the key; None for no key. timeout: seconds for connecting
    and between bytes. retries: attempts after the first. pause: seconds before the first retry, doubled for each next
    one; a Retry-After of the server is obeyed, up to a minute.
    ValueError for a bad URL or an unset variable; EndpointError, from `merge`, when there is no usable answer.
    """

    roles = (MERGE,)
    cpu_seconds = 0.0  # of ours; the endpoint has its own rate
    Options = EndpointOptions
    memory = 0.0

    def __init__(
        self,
        *,
        url: str,
        model: str,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        pause: float = 1.0,
        concurrency: int = 8,
        max_tokens: int = 80,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError(
                f"caption_merged: url must be http(s)://host/..., without a user or key in it (got {url!r})"
            )
        if timeout <= 0 or retries < 0 or pause < 0 or concurrency < 1 or max_tokens < 1:
            raise ValueError(
                "caption_merged: timeout > 0, retries >= 0, pause >= 0, concurrency >= 1 and max_tokens >= 1 must hold"
            )
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ValueError(f"caption_merged: environment variable {api_key_env} is not set; export the key for {url}")
        base = url.rstrip("/")
        self.url = base if base.endswith("/chat/completions") else base + "/chat/completions"
        self.model, self.api_key_env = model, api_key_env
        self.timeout, self.retries, self.pause = timeout, retries, pause
        self.concurrency, self.max_tokens = concurrency, max_tokens
        self.name = f"{model} at {parts.hostname}"
        self._opener = urllib.request.build_opener(NoRedirect)
        # When one pair of a batch fails, the stage retries clip by clip: answers are cached to not pay twice.
        self._ask = lru_cache(maxsize=4096)(self._complete)

    @classmethod
    def weights(cls, **_: object) -> list[Weights]:
        """None: the weights are the endpoint's."""
        return []

    def merge(self, pairs: Sequence[Pair]) -> list[str | None]:
        """One caption for each (frame caption, video caption); None only where both are missing."""
        return merge_pairs(pairs, self._answers)

    def _answers(self, pairs: list[tuple[str, str]]) -> list[str]:
        with ThreadPoolExecutor(min(self.concurrency, len(pairs))) as threads:
            return list(threads.map(lambda pair: self._ask(*pair), pairs))

    def _complete(self, frame: str, video: str) -> str:
        """The answer's text, retried where that can help."""
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": request(frame, video)}],
                "temperature": 0,
                "max_tokens": self.max_tokens,
            }
        ).encode()
        for attempt in range(self.retries + 1):
            wait = self.pause * 2**attempt
            try:
                return self._text(self._post(body))
            except urllib.error.HTTPError as error:
                with error:
                    body_text = self._hide(error.read(300).decode("utf-8", "replace").strip())
                if error.code != 429 and error.code < 500:
                    fix = FIXES.get(error.code, "check `url`")
                    raise EndpointError(
                        f"{self.url}: HTTP {error.code} {error.reason}: {body_text!r}; {fix}"
                    ) from error
                reason, wait = f"HTTP {error.code} {error.reason}: {body_text!r}", max(wait, retry_after(error))
            except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
                reason = f"{type(error).__name__}: {getattr(error, 'reason', None) or error}"
            if attempt < self.retries:
                time.sleep(min(wait, LONGEST_PAUSE))
        raise EndpointError(
            f"{self.url}: no answer after {self.retries + 1} attempts, the last: {reason}; "
            "check that the server is up, or raise `timeout` or `retries`, or lower `concurrency`"
        )

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "winnow"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(self.api_key_env, '')}"
        call = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        with self._opener.open(call, timeout=self.timeout) as reply:
            return reply.read(LONGEST_ANSWER)

    def _hide(self, text: str) -> str:
        """The text without the key, which some servers repeat when they refuse it."""
        key = os.environ.get(self.api_key_env or "", "")
        return text.replace(key, "***") if key else text

    def _text(self, reply: bytes) -> str:
        try:
            text = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"{self.url}: not a chat completion ({type(error).__name__}: {error}): {reply[:200]!r}; "
                "the server must speak the OpenAI chat API: check `url`"
            ) from error
        return text if isinstance(text, str) else ""  # null for an empty answer


def retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds of the Retry-After header; 0 without one, or for a date."""
    try:
        return max(0.0, float(error.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0
