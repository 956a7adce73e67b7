"""The store of a path or URL."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from curate.base.store.bucket import Bucket
from curate.base.store.connection import SCHEMES
from curate.base.store.folder import Folder
from curate.base.store.others import Others, knows
from curate.base.store.protocol import SCHEME, Store, StoreError, is_remote, shown

__all__ = ["Store", "StoreError", "join", "storable", "store_of"]


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
    if knows(scheme):
        return Others(text)
    raise StoreError(
        f"{shown(text)}: Winnow knows no storage {scheme}://: use a path, s3://, gs://, az://, hf://, or another that fsspec knows"
    )


def storable(place: str) -> bool:
    """Whether a URL's scheme is one of a store."""
    found = SCHEME.match(place)
    return bool(found) and (found.group(1).lower() in SCHEMES or knows(found.group(1).lower()))  # type: ignore[union-attr]


def join(place: str | os.PathLike[str], *names: str) -> str:
    """A path or URL below another."""
    text = os.fspath(place)
    if is_remote(text):
        return "/".join([text.rstrip("/"), *names])
    return str(Path(text, *names))
