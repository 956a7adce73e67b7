"""What the server holds: the dataset as it was when it was last read, and everything made of it; or what is wrong with it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from curate.selection.filters import SelectionError
from pipelines.dataset import labels
from pipelines.inspector.data.inspected import InspectError, signature
from pipelines.inspector.data.likeness import SentenceEncoder
from pipelines.inspector.data.loaded import Loaded, load, warm
from pipelines.inspector.data.media import ClipCache

LARGE = 400_000  # clips
log = logging.getLogger(__name__)


class Session:
    """state: "loading", "ready" or "wrong" (then `wrong` says what). A reload leaves the old one in place until it is done."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.clips, self.encoder = ClipCache(cache), SentenceEncoder()
        self.lock = threading.Lock()
        self.loaded: Loaded | None = None
        self.state, self.wrong, self.seen = "loading", "", ""
        self._closing = threading.Event()
        self._later: list[threading.Thread] = []

    def load(self) -> None:
        """Read the dataset, where it is not what was read last."""
        with self.lock:
            now = signature(self.root)
            if self.state != "loading" and now == self.seen:
                return
            if self.loaded and self.loaded.columns and self.loaded.columns.count > LARGE:
                self.loaded, self.state = None, "loading"  # two of them would be too much memory
            for last in (False, True):  # a writer that replaces shards while they are read: once more
                self.seen = signature(self.root)
                try:
                    loaded = load(self.root, self.clips, self.encoder)
                    warm(loaded)
                    self.loaded, self.state, self.wrong = loaded, "ready", ""
                    self._later = [thread for thread in self._later if thread.is_alive()]
                    self._later.append(threading.Thread(target=self._prepare, args=(loaded,), daemon=True))
                    self._later[-1].start()
                    return
                except InspectError as error:
                    self.loaded, self.state, self.wrong = None, "wrong", str(error)
                except SelectionError as error:
                    self.loaded, self.state, self.wrong = None, "wrong", f"{self.root}: {error}"
                except Exception as error:  # a damaged file can fail anywhere; the page says so, and the log where
                    log.exception("the dataset cannot be read")
                    self.loaded, self.state = None, "wrong"
                    self.wrong = f"{self.root}: cannot be read ({type(error).__name__}: {error})"
                if last or self.seen == signature(self.root):
                    return

    @property
    def changed(self) -> bool:
        """The folder is not what was read last."""
        return self.state != "loading" and signature(self.root) != self.seen

    def label(self, place: int, label: str | None, note: str | None) -> labels.Label:
        """Store it, and let the selection see it."""
        now = self.loaded
        unchanged = not self.changed
        given = labels.append(now.inspected.labels_root, now.columns.ids[place].as_py(), label, note)
        now.columns.set_label(place, given)
        now.chooser.forget("label")
        if unchanged:
            self.seen = signature(self.root)
        return given

    def close(self) -> None:
        self._closing.set()
        for thread in self._later:  # one for each time that the dataset was read
            thread.join(30)
        self.clips.close()
        self.encoder.close()

    def _prepare(self, loaded: Loaded) -> None:
        """What a person may ask for next: a cutter that is up, and the other scores in order."""
        if self._closing.wait(4.0):  # the first page comes first
            return
        self.clips.warm()
        for name in list(loaded.chooser.axes) if loaded.chooser else ():
            if self._closing.is_set():
                return
            loaded.columns.order(name)
