"""Shards of arrays on disk: safetensors files that appear whole or not at all, and are read through memory maps."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from curate.base import files
from video_model.errors import DataError

TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8}


def write_shard(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write arrays and JSON values beside them. Raises DataError where the disk is full; nothing is left then."""
    note = {"about": json.dumps(about)}  # one entry: safetensors writes several in any order
    write_whole(path, save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata=note))


def write_whole(path: Path, data: bytes) -> None:
    """The file appears whole or not at all, its folders too. Raises DataError where the disk is full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(full_disk(path.parent, len(data))) from None
    except files.DiskError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(full_disk(path.parent, len(data)) if full else str(error)) from None


def full_disk(folder: Path, needed: int) -> str:
    return (
        f"{folder}: the disk is full ({needed / 1e6:,.1f} MB more are needed); free some, or put the cache elsewhere; "
        "what is there already is kept and used"
    )


def read_about(path: Path) -> dict[str, Any]:
    """The JSON values of a shard, without its arrays."""
    return json.loads(_header(path)[0]["__metadata__"]["about"])


def map_shard(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard, memory-mapped, read-only."""
    header, start = _header(path)
    header.pop("__metadata__", None)
    if os.path.getsize(path) == start:
        return {name: np.empty(entry["shape"], TYPES[entry["dtype"]]) for name, entry in header.items()}
    raw = np.asarray(np.memmap(path, np.uint8, "r", start))  # the plain view is much quicker to index
    found = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        found[name] = raw[first:last].view(TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def _header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        size = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if os.path.getsize(path) != 8 + length + size:
            raise ValueError("its length is not what its header says")
    except (ValueError, struct.error, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); delete it, and it is made again") from None
    return header, 8 + length
