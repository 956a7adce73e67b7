"""What the page of a training run shows, of a run in a bucket: its logs and samples in a local folder, as they are now."""

from __future__ import annotations

import re
from pathlib import Path

from curate.base.files import write_atomic
from curate.base.store import Entry, Store

# What lies in a run beside them, checkpoints foremost, is never fetched.
SHOWN = re.compile(r"(config|data)\.json|stages/[^/]+/(log\.jsonl|samples/(prompts\.json|step-\d{8}-\d+\.png))")


class FetchedRun:
    """Call it to bring the folder up to date: what changed in the store since the last time is read again."""

    def __init__(self, store: Store, folder: Path) -> None:
        """folder: empty; the run is made below it, under its own name."""
        self.store = store
        self.root = folder / (store.url.rpartition("/")[2] or "run")
        self.root.mkdir()
        self._known: dict[str, Entry] = {}

    def __call__(self) -> None:
        for entry in self.store.list():
            if self._known.get(entry.name) == entry or not SHOWN.fullmatch(entry.name):
                continue
            path = self.root.joinpath(*entry.name.split("/"))
            if not path.resolve().is_relative_to(self.root.resolve()):  # a name such as stages/../log.jsonl
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_atomic(path, self.store.read(entry.name), durable=False)
            except FileNotFoundError:  # deleted meanwhile
                continue
            self._known[entry.name] = entry
