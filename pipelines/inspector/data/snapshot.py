"""The clips of one state of a dataset as files of the user's cache, made once and shared by all inspectors of that state.

    CACHE/tables/<dataset>/<state>/clips.duckdb     every column but pictures, embeddings and videos; in order of clip_id
                                   ids.arrow        clip ids; with them the caption that a tile shows
                                   <i>.values.npy   a score, float32 or float64 [N], NaN where null
                                   <i>.codes.npy    uint8 [N], the bin of its histogram
                                   <i>.order.npy    int32 [K], clips by score: made when it is first asked for
                                   about.json       what each <i> is; shards; written last

All are mapped, or read in blocks: what the process holds does not grow with the clips. A folder that a process has open is
locked (shared) and stays; others of the same dataset go when a newer state was made, and the longest unused where all
take more than MOST bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.base.files import DiskError, writing
from curate.base.sql import message_of, quoted
from curate.base.store.files import PROTOCOL, database
from curate.selection.filters import SelectionError
from curate.selection.selection import NUMERIC
from pipelines.dataset.columns import NOT_SCORES
from pipelines.inspector.data.axes import Axis, axis_of
from pipelines.inspector.data.blocks import ordered

VERSION = 1  # of these files
SECONDS = "seconds"  # a clip's length: shown and filtered as a score, though the table has only its start and end
PLACES = ("filename", "file_row_number")
MEMORY = {"memory_limit": "700MB", "preserve_insertion_order": True}
BATCH = 1 << 18  # rows
MOST = 50_000_000_000  # bytes of all datasets
IN_USE = "in-use"


@dataclass
class Snapshot:
    """count: clips. files: shards, paths or URLs. types: column of clips.duckdb -> DuckDB's type. scores: those with values
    as arrays, by name -> their number; nulls: by name; axes: of those that have a spread. shown: the column of captions."""

    folder: Path
    count: int
    files: list[str]
    types: dict[str, str]
    scores: dict[str, int]
    nulls: dict[str, int]
    axes: dict[str, Axis]
    shown: str | None
    lock: IO[bytes] | None = None

    def array(self, name: str, kind: str) -> np.ndarray:
        """Mapped. kind: values or codes of a score; file or row of every clip."""
        return mapped(self.folder / (f"{self.scores[name]}.{kind}.npy" if name else f"{kind}.npy"))

    def order(self, name: str, values: np.ndarray) -> np.ndarray:
        """[K] int32, mapped: places of the clips that have the score, lowest first, ties in order of id. values: its."""
        path = self.folder / f"{self.scores[name]}.order.npy"
        with suppress(FileNotFoundError):
            return mapped(path)
        aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            ordered(values, empty(aside, np.int32, self.count - self.nulls[name]))
            os.replace(aside, path)
            return mapped(path)
        except OSError:  # a full disk, or a cache that was emptied: it is kept in memory
            return ordered(values)
        finally:
            aside.unlink(missing_ok=True)

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """A JSON value that only depends on the state, kept beside the tables."""
        path = self.folder / f"{name}.json"
        with suppress(OSError, ValueError):
            return json.loads(path.read_bytes())
        made = make()
        with suppress(OSError):
            aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
            aside.write_text(json.dumps(made))
            os.replace(aside, path)
        return made

    @cached_property
    def texts(self) -> pa.Table:
        """clip_id and the caption shown, mapped."""
        return pa.ipc.open_file(pa.memory_map(str(self.folder / "ids.arrow"))).read_all()


def snapshot(clips: str, url: str, state: str, cache: Path) -> Snapshot:
    """Of the relation `clips`, which has PLACES; made where the cache has none of this state. url: of the dataset; state:
    any text that changes when its shards do. Raises SelectionError where there are no clips, DiskError."""
    home = cache / "tables" / _digest(url)
    folder = home / _digest([VERSION, duckdb.__version__, state])
    with writing(home):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = _opened(folder)
        if found is None:
            aside = home / f".{folder.name}.{os.getpid()}-{threading.get_ident()}"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(mode=0o700)
            try:
                with open(aside / IN_USE, "wb") as lock:
                    _locked(lock, fcntl.LOCK_SH)
                    _make(clips, aside)
                    with suppress(OSError):  # another process was faster
                        os.replace(aside, folder)
                    found = _opened(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            trim(cache / "tables", folder)
    if found is None:
        raise DiskError(f"{folder}: cannot be written: empty that cache, or name another with --cache")
    return found


def trim(root: Path, keep: Path) -> None:
    """Delete other states of the dataset of `keep`, and the longest unused of all above MOST bytes; none that is in use."""
    found = []
    for folder in (*root.glob("*/*"), *root.glob("*/.*")):
        with suppress(OSError):
            found.append((folder.stat().st_mtime_ns, sum(f.stat().st_size for f in folder.iterdir()), folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if folder == keep or (folder.parent != keep.parent and total <= MOST):
            continue
        with suppress(OSError), open(folder / IN_USE, "rb") as lock:
            if _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder, ignore_errors=True)
                total -= size


def mapped(path: Path) -> np.ndarray:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(found) if found.size else np.zeros(found.shape, found.dtype)


def empty(path: Path, dtype: Any, count: int) -> np.ndarray:
    """A .npy file to fill, mapped."""
    if not count:
        np.save(path.open("wb"), np.zeros(0, dtype), allow_pickle=False)
        return np.zeros(0, dtype)
    return np.lib.format.open_memmap(path, "w+", dtype, (count,))


def light(types: Mapping[str, str]) -> list[str]:
    """The columns that are held: not pictures, videos and embeddings."""
    return [name for name, kind in types.items() if "BLOB" not in kind and not re.search(r"(FLOAT|DOUBLE)\[", kind)]


def _make(clips: str, folder: Path) -> None:
    spilled = folder / "spilled"
    db = database(str(folder / "clips.duckdb"), temp_directory=str(spilled), **MEMORY)
    try:
        kinds = {row[0]: str(row[1]) for row in db.execute(f"DESCRIBE SELECT * FROM {clips}").fetchall()}
        held = light(kinds)
        finite = {n: f"CASE WHEN isfinite({quoted(n)}) THEN {quoted(n)} END AS " for n in held if _floating(kinds[n])}
        columns = ", ".join(finite.get(name, "") + quoted(name) for name in held)
        db.execute(f"CREATE TABLE clips AS SELECT {columns} FROM {clips} ORDER BY clip_id").fetchall()
        about = _arrays(db, {name: kinds[name] for name in held}, folder)
    except duckdb.Error as error:
        raise SelectionError(f"clips table cannot be read: {message_of(error)}") from error
    finally:
        db.close()
        shutil.rmtree(spilled, ignore_errors=True)
    (folder / "about.json").write_text(json.dumps(about))


def _arrays(db: duckdb.DuckDBPyConnection, types: dict[str, str], folder: Path) -> dict[str, Any]:
    """The scores and places of the table as arrays; what about.json says."""
    count = db.execute("SELECT count(*) FROM clips").fetchall()[0][0]
    if not count:
        raise SelectionError(
            "the dataset has no clips: nothing to select from; see `winnow stats` for what became of its videos"
        )
    files = [row[0] for row in db.execute("SELECT DISTINCT filename FROM clips ORDER BY 1").fetchall()]
    names = [name for name, kind in types.items() if NUMERIC.match(kind) and name not in NOT_SCORES | set(PLACES)]
    facts = ", ".join(f"count({quoted(n)}), max(abs({quoted(n)}::DOUBLE))" for n in names)
    row = db.execute(f"SELECT count(end_time - start_time) {', ' + facts if facts else ''} FROM clips").fetchall()[0]
    nulls = {SECONDS: count - row[0]} | {name: count - row[1 + 2 * i] for i, name in enumerate(names)}
    kinds: dict[str, Any] = {SECONDS: np.float64}
    for i, name in enumerate(names):  # whole numbers as float32 where that is exact
        exact = types[name] == "FLOAT" or (not _floating(types[name]) and (row[2 + 2 * i] or 0) < 1 << 24)
        kinds[name] = np.float32 if exact else np.float64
    shown = next((n for n in ("caption_merged", *captions_of(types)) if n in types), None)
    scores = {name: i for i, name in enumerate(kinds)}
    out = {name: empty(folder / f"{i}.values.npy", kinds[name], count) for name, i in scores.items()}
    places = {kind: empty(folder / f"{kind}.npy", np.int32, count) for kind in ("file", "row")}
    length = 'end_time - start_time AS "_seconds"'
    wanted = ["clip_id", *PLACES, *names, *([shown] if shown else [])]
    reader = db.sql(f"SELECT {', '.join(map(quoted, wanted))}, {length} FROM clips").to_arrow_reader(BATCH)
    text = pa.schema([pa.field("clip_id", pa.string()), *([pa.field("shown", pa.string())] if shown else [])])
    at, known = 0, pa.array(files)
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, text) as ids:
        for batch in reader:
            stop = at + batch.num_rows
            for name in kinds:
                found = batch.column("_seconds" if name == SECONDS else name)
                out[name][at:stop] = pc.cast(found, pa.from_numpy_dtype(kinds[name]), safe=False).to_numpy(
                    zero_copy_only=False
                )
            places["file"][at:stop] = pc.index_in(batch.column("filename"), known).to_numpy(zero_copy_only=False)
            places["row"][at:stop] = batch.column("file_row_number").to_numpy()
            texts = [batch.column(name).cast(pa.string()) for name in ("clip_id", *([shown] if shown else []))]
            ids.write_batch(pa.record_batch(texts, schema=text))
            at = stop
    axes = {}
    for name, i in scores.items():
        codes = empty(folder / f"{i}.codes.npy", np.uint8, count)
        if axis := axis_of(out[name], codes):
            axes[name] = asdict(axis)
        else:
            (folder / f"{i}.codes.npy").unlink()
    return {
        "count": count, "files": [file.removeprefix(f"{PROTOCOL}://") for file in files], "types": types,
        "scores": scores, "nulls": nulls, "axes": axes, "shown": shown,
    }  # fmt: skip


def captions_of(names: Mapping[str, Any] | list[str]) -> list[str]:
    """Columns of texts about what is seen: a captioner's, which are named caption_*, and the source list's."""
    found = [name for name in names if name.startswith("caption_") and not name.endswith("_from")]
    return found + [name for name in ("source_caption",) if name in names]


def _opened(folder: Path) -> Snapshot | None:
    """Locked; None where there is none."""
    try:
        lock = open(folder / IN_USE, "rb")  # noqa: SIM115  held as long as the snapshot is
    except FileNotFoundError:
        return None
    _locked(lock, fcntl.LOCK_SH)
    try:
        about = json.loads((folder / "about.json").read_bytes())
    except (OSError, ValueError):  # deleted meanwhile, or of a machine that lost power: made anew
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with suppress(OSError):
        os.utime(folder)
    axes = {name: Axis(**axis) for name, axis in about.pop("axes").items()}
    return Snapshot(folder, lock=lock, axes=axes, **about)


def _locked(stream: IO[bytes], how: int) -> bool:
    """Whether the lock was had. A cache on a disk without locks is shared all the same, and nothing of it is deleted."""
    try:
        fcntl.flock(stream, how)
    except OSError:
        return False
    return True


def _floating(kind: str) -> bool:
    return kind in ("FLOAT", "DOUBLE")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]
