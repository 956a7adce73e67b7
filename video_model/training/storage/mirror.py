"""A run in a store (a bucket): a local folder that is the run, and what puts it there and fetches it again.

Everything reads and writes the folder; what changes in it is put into the store whole, every few seconds and at the end. The
store is the truth: whoever begins, on whatever machine, fetches it first. A checkpoint is there when its state.json is:

    RUN/stages/<name>/checkpoints/step-00000500/<attempt>/network.safetensors ...    put by the workers that hold them
    RUN/stages/<name>/checkpoints/step-00000500/<attempt>/done-00000                 of each worker: its files and their bytes
    RUN/stages/<name>/checkpoints/step-00000500/state.json                           put last, by the first worker

A file of more than a gigabyte is several objects, NAME.part-00000 and so on: stores take no more than some at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from curate.base.files import cache_folder, write_json
from curate.base.store import Store, StoreError, is_remote, store_of
from video_model.training.storage.checkpoints import STATE

EVERY = 60.0  # seconds between looks at what has changed
PART = 1 << 30  # bytes of one object, at most
FETCHED = ".fetched.json"  # object -> version, of what the folder holds
LEASE = "lock.json"  # who trains the run: not part of it
BY_THE_WAY = ("samples/", "tensorboard/", "evaluation/", "ray/")  # put, and not fetched again to train on


def scratch() -> Path:
    """Where this machine keeps what belongs to runs in stores: WINNOW_SCRATCH, or the user's cache folder."""
    chosen = os.environ.get("WINNOW_SCRATCH")
    return Path(chosen) if chosen else cache_folder()


def default_cache(out: str | Path) -> Path:
    """Where latents are kept when nothing else is said: beside a run, or on each machine, of a run in a store."""
    return (scratch() if is_remote(out) else Path(out).parent) / "latents"


class Mirror:
    """The run at a URL. folder: where it is worked on, on each machine: below `scratch`.

    apart: a name for a folder of its own, for who only looks on. As a context it puts what changes, until it is left. Raises
    StoreError.
    """

    def __init__(self, url: str, apart: str = "") -> None:
        self.store: Store = store_of(url)
        name = hashlib.sha256(self.store.url.encode()).hexdigest()[:16]
        self.folder = scratch() / "runs" / f"{name}{apart}" / self.store.url.rpartition("/")[2]
        self._put: dict[str, tuple[int, int]] = {}
        self._ended, self._busy = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def name(self, path: Path) -> str:
        """Of a path of the folder, in the store."""
        return path.relative_to(self.folder).as_posix()

    def fetch(self, whole: bool = False) -> Path:
        """Make the folder what the store holds; of checkpoints the newest of each stage. whole: samples as well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder), self._busy:
            entries = list(self.store.list())
            small = {
                e.name: e
                for e in entries
                if e.name != LEASE
                and "/checkpoints/" not in e.name
                and (whole or not any(f"/{part}" in f"/{e.name}" for part in BY_THE_WAY))
            }
            have = self._versions()
            for name, entry in small.items():
                target = self.folder / name
                if not target.exists() or have.get(name) != entry.version or target.stat().st_size != entry.bytes:
                    self._get([name], target)
                self._put[name], have[name] = _stamp(target), entry.version
            self._fetch_steps({entry.name for entry in entries})
            for path in (*self.folder.glob("*.json*"), *self.folder.glob("stages/*/*.json*")):
                if path.name[0] != "." and self.name(path) not in small:
                    path.unlink()  # of what was never put
            write_json(self.folder / FETCHED, have, durable=False)
        return self.folder

    def fetch_small(self, names: Iterable[str]) -> None:
        """Bring some objects, and the logs of the stages, up to date."""
        have = self._versions()
        for entry in self.store.list():
            if (entry.name in names or entry.name.endswith("/log.jsonl")) and have.get(entry.name) != entry.version:
                self._get([entry.name], self.folder / entry.name)
                have[entry.name] = entry.version
        write_json(self.folder / FETCHED, have, durable=False)

    def put(self, local: Path, name: str) -> str:
        """Put a local file as an object, over what is there; its version."""
        size = local.stat().st_size
        if size <= PART:
            return self.store.replace(name, local.read_bytes())
        with open(local, "rb") as stream:
            for number in range(-(-size // PART)):
                self.store.replace(f"{name}.part-{number:05d}", stream.read(PART))
        return ""

    def sync(self) -> None:
        """Put all files that have changed; checkpoints are put by who writes them."""
        with self._busy:
            changed = {}
            for path in sorted(self.folder.rglob("*")):
                name = self.name(path)
                if "/checkpoints/" in name or any(part.startswith(".") for part in name.split("/")):
                    continue
                try:
                    if path.is_file() and self._put.get(name) != (stamp := _stamp(path)):
                        changed[name] = self.put(path, name)
                        self._put[name] = stamp
                except FileNotFoundError:  # replaced meanwhile
                    continue
            if changed:
                write_json(self.folder / FETCHED, self._versions() | changed, durable=False)

    def put_state(self, step: Path, state: Mapping[str, Any], keep: int) -> None:
        """The last object of a checkpoint: now it is there. Then all but the newest `keep` others go."""
        self.store.replace(f"{self.name(step)}/{STATE}", json.dumps(state, indent=1).encode())
        prefix = f"{self.name(step.parent)}/"
        names = [entry.name for entry in self.store.list(prefix)]
        steps = sorted({name.removeprefix(prefix).partition("/")[0] for name in names}, reverse=True)
        for old in steps[keep + 1 :]:
            for name in sorted(
                (n for n in names if n.startswith(f"{prefix}{old}/")), key=lambda n: not n.endswith(STATE)
            ):
                self.store.delete(name)

    def __enter__(self) -> Mirror:
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.sync()
        except StoreError:
            if error is None:
                raise

    def _follow(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                self.sync()
            except StoreError:  # again, the next time; at the end it is raised
                continue

    def _fetch_steps(self, names: set[str]) -> None:
        """The newest checkpoint of each stage; local ones that the store does not have go."""
        newest: dict[str, str] = {}  # folder of checkpoints -> last of its steps that is whole
        for name in names:
            step, _, file = name.rpartition("/")
            if file == STATE and "/checkpoints/step-" in step:
                newest[step.rpartition("/")[0]] = max(newest.get(step.rpartition("/")[0], ""), step)
        for path in self.folder.glob("stages/*/checkpoints/*"):
            if path.name.startswith(".") or f"{self.name(path)}/{STATE}" not in names:
                shutil.rmtree(path, ignore_errors=True)
        for step in newest.values():
            state = json.loads(self.store.read(f"{step}/{STATE}"))
            target = self.folder / step
            if not _is_local(target, state):
                aside = target.with_name(f".{target.name}-fetched")
                shutil.rmtree(aside, ignore_errors=True)
                for file in state["files"]:
                    whole = f"{step}/{state['attempt']}/{file}"
                    parts = sorted(name for name in names if name.startswith(f"{whole}.part-"))
                    self._get(parts or [whole], aside / file)
                (aside / STATE).write_text(json.dumps(state, indent=1))
                shutil.rmtree(target, ignore_errors=True)
                aside.rename(target)

    def _get(self, names: list[str], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.fetched")
        with open(aside, "wb") as made:
            for name in names:
                with self.store.open(name) as source:
                    shutil.copyfileobj(source, made, 8 << 20)
        aside.replace(target)

    def _versions(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / FETCHED).read_text()))
        except (OSError, ValueError):
            return {}


def local_run(place: str | Path, whole: bool = False) -> Path:
    """The folder of a run that is at a path, or is fetched from a URL. Raises StoreError."""
    return Mirror(str(place)).fetch(whole) if is_remote(place) else Path(place)


def _is_local(step: Path, state: Mapping[str, Any]) -> bool:
    """Whether a folder is that checkpoint, of that attempt."""
    try:
        same = json.loads((step / STATE).read_text()).get("attempt") == state["attempt"]
        return same and all((step / name).stat().st_size == size for name, size in state["files"].items())
    except (OSError, ValueError):
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
