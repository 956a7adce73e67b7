"""Object storage as a store, by obstore: S3, Google Cloud, Azure, HTTP (to read), and this process's memory."""

from __future__ import annotations

import importlib.util
import io
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from curate.base.extras import install_command
from curate.base.store.protocol import Changed, Entry, Store, StoreError

SCHEMES = {"s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "adl", "memory", "http", "https"}
TRIES = 3  # of calls that obstore gave up on, after its own retries
PAUSE = 0.5  # s, doubled
READ_AHEAD = 1 << 20  # bytes of the smallest range that a stream asks for

Found = TypeVar("Found")


class Bucket(Store):
    """A prefix of a bucket. Credentials and endpoint are those of the service's own environment variables and files."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.bucket = f"{parts.scheme.lower()}://{parts.netloc}"
        self.prefix = parts.path.strip("/")
        self.shared = parts.scheme != "memory"

    def put(self, name: str, data: bytes | Path) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._try(lambda store, key: _obstore().put(store, key, _content(data), mode="create"), name)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def replace(self, name: str, data: bytes, version: str | None = None) -> str:
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        mode: Any = "overwrite" if version is None else {"e_tag": version}
        try:
            made = self._try(lambda store, key: _obstore().put(store, key, data, mode=mode), name)
        except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError):
            raise Changed(self.where(name)) from None
        return made["e_tag"] or ""

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        if end is not None and end <= start:
            return b""

        def get(store: Any, key: str) -> bytes:
            if start == 0 and end is None:
                return bytes(_obstore().get(store, key).bytes())
            options: Any = {"range": (start, end) if end is not None else {"offset": start}}
            return bytes(_obstore().get(store, key, options=options).bytes())

        return self._try(get, name)

    def head(self, name: str) -> Entry:
        return self._entry(self._try(lambda store, key: _obstore().head(store, key), name))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Object storage lists by folders: what lies in the folder of the prefix is read, and filtered here."""
        folder = prefix.rpartition("/")[0]
        found = self._try(lambda store, key: [m for part in _obstore().list(store, key or None) for m in part], folder)
        entries = (self._entry(meta) for meta in found)
        yield from sorted((e for e in entries if e.name.startswith(prefix)), key=lambda entry: entry.name)

    def delete(self, name: str) -> None:
        try:
            self._try(lambda store, key: _obstore().delete(store, key), name)
        except FileNotFoundError:
            pass

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(_Ranges(self, name, self.head(name).bytes), READ_AHEAD)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".strip("/")

    def _entry(self, meta: Any) -> Entry:
        name = meta["path"].removeprefix(f"{self.prefix}/" if self.prefix else "")
        modified = int(meta["last_modified"].timestamp() * 1e9)
        return Entry(name, meta["size"], meta["e_tag"] or str(modified), modified)

    def _try(self, call: Callable[[Any, str], Found], name: str) -> Found:
        """A call to the service, repeated where it failed for a reason that may pass."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            NotFoundError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )  # fmt: skip

        pause = PAUSE
        for left in reversed(range(TRIES)):
            try:
                return call(_connected(self.bucket, _endpoint()), self._key(name))
            except (AlreadyExistsError, PreconditionError):
                raise
            except (NotFoundError, FileNotFoundError):
                raise FileNotFoundError(self.where(name)) from None
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StoreError(
                    f"{self.where(name)}: access is denied ({_short(error)}): check the credentials in the environment"
                ) from None
            except (BaseError, OSError, ValueError) as error:
                if not left:
                    raise StoreError(
                        f"{self.where(name)}: cannot be reached ({_short(error)}): check the address, the endpoint and the "
                        "network; what is committed stays, and the same command resumes",
                        transient=True,
                    ) from None
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")


class _Ranges(io.RawIOBase):
    """An object as a raw stream: every read is one ranged request."""

    def __init__(self, store: Bucket, name: str, size: int) -> None:
        self.store, self.name, self.size, self.at = store, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        found = self.store.read(self.name, self.at, min(self.size, self.at + len(buffer)))
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)


def _content(data: bytes | Path) -> Any:
    return data if isinstance(data, Path) else bytes(data)


def _obstore() -> Any:
    if importlib.util.find_spec("obstore") is None:
        raise StoreError(f"the package obstore, for object storage, is not installed: {install_command('obstore')}")
    import obstore

    return obstore


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@lru_cache(maxsize=64)
def _connected(bucket: str, endpoint: str) -> Any:
    """The client of a bucket, one for each process. endpoint: of S3."""
    _obstore()
    from obstore.store import from_url

    if bucket.startswith("memory://"):
        from obstore.store import MemoryStore

        return MemoryStore()
    scheme = bucket.partition("://")[0]
    options: dict[str, Any] = {
        "client_options": {"timeout": "60s", "connect_timeout": "10s"},
        "retry_config": {"max_retries": 8, "retry_timeout": timedelta(seconds=120)},
    }
    if scheme in ("http",) or (scheme.startswith("s3") and endpoint.startswith("http://")):
        options["client_options"]["allow_http"] = True
    if scheme.startswith("s3"):
        if endpoint:
            options["endpoint"] = endpoint
        if not os.environ.get("AWS_ACCESS_KEY_ID") and importlib.util.find_spec("boto3"):
            from obstore.auth.boto3 import Boto3CredentialProvider  # profiles, SSO, ~/.aws

            options["credential_provider"] = Boto3CredentialProvider()
    return from_url(bucket.replace("s3a://", "s3://").replace("gcs://", "gs://"), **options)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
