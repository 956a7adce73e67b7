"""The store of a path or URL."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from curate.base.store.bucket import SCHEMES, Bucket
from curate.base.store.folder import Folder
from curate.base.store.protocol import SCHEME, Store, StoreError, is_remote

__all__ = ["Store", "StoreError", "join", "store_of"]


def store_of(place: str | os.PathLike[str] | Store) -> Store:
    """The store at a path or URL (s3://, gs://, az://, hf://, memory:// ...). Raises StoreError for an unknown scheme."""
    if isinstance(place, Store):
        return place
    text = os.fspath(place)
    if not is_remote(text):
        return Folder(unquote(urlsplit(text).path) if text.lower().startswith("file://") else text)
    scheme = SCHEME.match(text).group(1).lower()  # type: ignore[union-attr]
    if scheme in SCHEMES:
        return Bucket(text)
    raise StoreError(f"{text}: Winnow knows no storage {scheme}://: use a path, or one of {', '.join(sorted(SCHEMES))}")


def join(place: str | os.PathLike[str], *names: str) -> str:
    """A path or URL below another."""
    text = os.fspath(place)
    if is_remote(text):
        return "/".join([text.rstrip("/"), *names])
    return str(Path(text, *names))
