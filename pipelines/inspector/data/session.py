"""What the server holds: the dataset as it was when it was last read, and everything made of it; or what is wrong with it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from curate.base.files import DiskError
from curate.base.store import StoreError, is_remote
from curate.selection.filters import SelectionError
from pipelines.dataset import labels
from pipelines.inspector.data.inspected import Gone, InspectError, place_of_dataset, signature
from pipelines.inspector.data.likeness import SentenceEncoder
from pipelines.inspector.data.loaded import Loaded, load, warm
from pipelines.inspector.data.media import ClipCache

TRIES = 3  # of reading a dataset whose shards are replaced meanwhile
REST = 20  # times as long as it took to list a bucket pass before it is listed again
log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class Session:
    """root: a path or a URL. state: "loading", "ready" or "wrong" (then `wrong` says what). version: counts what was read. A
    reload leaves the old one in place until it is done."""

    def __init__(self, root: str | os.PathLike[str], cache: Path) -> None:
        self.root = place_of_dataset(root)
        self.clips, self.encoder = ClipCache(cache), SentenceEncoder()
        self.lock = threading.Lock()
        self.loaded: Loaded | None = None
        self.state, self.wrong, self.seen, self.version = "loading", "", "", 0
        self._closing = threading.Event()
        self._later: list[threading.Thread] = []
        self._looked: tuple[float, str] = -1e9, ""

    def load(self) -> None:
        """Read the dataset, where it is not what was read last."""
        with self.lock:
            if self.state != "loading" and self._signature() == self.seen:
                return
            for left in reversed(range(TRIES)):  # a writer that replaces shards while they are read: once more
                try:
                    self.seen = self._signature(fresh=True)
                    loaded = load(self.root, self.clips, self.encoder)
                    warm(loaded)
                    self.loaded, self.state, self.wrong = loaded, "ready", ""
                    self.version += 1
                    self._later = [thread for thread in self._later if thread.is_alive()]
                    self._later.append(threading.Thread(target=self._prepare, args=(loaded,), daemon=True))
                    self._later[-1].start()
                    return
                except (InspectError, DiskError, StoreError) as error:
                    self.loaded, self.state, self.wrong = None, "wrong", str(error)
                except SelectionError as error:
                    self.loaded, self.state, self.wrong = None, "wrong", f"{self.root}: {error}"
                except Exception as error:  # a damaged file can fail anywhere; the page says so, and the log where
                    if not (left and isinstance(error, Gone)):
                        log.exception("the dataset cannot be read")
                    self.loaded, self.state = None, "wrong"
                    self.wrong = f"{self.root}: cannot be read ({type(error).__name__}: {error})"
                if not left or self.seen == self._signature(fresh=True):
                    return

    def current(self, answer: Callable[[], Answer]) -> Answer:
        """answer(), and once more from the dataset as it is now where a shard that it needs is gone."""
        version = self.version
        try:
            return answer()
        except Gone:
            if self.version == version:  # else another request has read it
                self._looked = -1e9, ""
                if not self.changed:
                    raise
                self.load()
            return answer()

    @property
    def changed(self) -> bool:
        """The dataset is not what was read last."""
        return self.state != "loading" and self._signature() != self.seen

    def label(self, place: int, label: str | None, note: str | None) -> labels.Label:
        """Store it, and let the selection see it."""
        now = self.loaded
        unchanged = not self.changed
        given = labels.append(now.inspected.labels_root, now.columns.id(place), label, note)
        now.columns.set_label(place, given)
        now.chooser.forget("label")
        if unchanged:
            self.seen = self._signature(fresh=True)
        return given

    def close(self) -> None:
        self._closing.set()
        for thread in self._later:  # one for each time that the dataset was read
            thread.join(30)
        self.clips.close()
        self.encoder.close()

    def _signature(self, fresh: bool = False) -> str:
        """Of the dataset now. A bucket is not listed every time that a page asks."""
        until, found = self._looked
        began = time.monotonic()
        if fresh or began >= until:
            try:
                found = signature(self.root)
            except StoreError as error:
                found = str(error)
            took = time.monotonic() - began
            self._looked = began + (REST * took if is_remote(self.root) else 0), found
        return found

    def _prepare(self, loaded: Loaded) -> None:
        """What a person may ask for next: a cutter that is up, and the other scores in order."""
        if self._closing.wait(4.0):  # the first page comes first
            return
        self.clips.warm()
        for name in list(loaded.chooser.axes) if loaded.chooser else ():
            if self._closing.is_set():
                return
            loaded.columns.order(name)
