"""Taking a selection away: as a command, as YAML, and as a folder that `select` makes while the page looks on."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import yaml

from curate.base.store import is_remote, join, store_of
from curate.selection.filters import COLUMN_KINDS, Filter, SelectionError, parse_filters
from pipelines.dataset import labels
from pipelines.inspector.data.columns import identifiers
from pipelines.inspector.data.inspected import Inspected

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def asked_of(inspected: Inspected, filters: Sequence[Filter], thresholds: Sequence[float | None]) -> list[Filter]:
    """The filters as `winnow select` takes them, in the order of its options.

    Of a curated dataset: its own selection, and the page's filters with their percentiles resolved, as percentiles of a part
    are not those of the whole. Raises SelectionError for a filter on labels that select would not find.
    """
    filters = list(filters)
    if not inspected.labels_are_selects:
        for chosen in filters:
            if chosen.kind == "where" and identifiers(chosen.sql).intersection(labels.COLUMNS):
                raise SelectionError(_not_selects(inspected, chosen))
    if inspected.kind == "curated":
        kinds = {"drop_bottom": "min", "drop_top": "max"}
        filters = [
            Filter(kinds[f.kind], f.column, at) if f.percentile and at is not None else f
            for f, at in zip(filters, thresholds, strict=True)
        ]
        filters = parse_filters(inspected.made["request"]["filters"]) + filters
    return sorted(filters, key=lambda f: ("where", *COLUMN_KINDS).index(f.kind))


def arguments(dataset: str, out: str, filters: Sequence[Filter]) -> list[str]:
    """`winnow select ...` as a list of words. Without filters it says so, as select would take the config's."""
    words = ["winnow", "select", dataset, "--out", out]
    for chosen in filters:
        if chosen.kind == "where":
            words += ["--where", chosen.sql]
        else:
            words += [f"--{chosen.kind.replace('_', '-')}", f"{chosen.column}={amount(chosen)}"]
    return words if filters else [*words, "--preset", "none"]


def command(dataset: str, out: str, filters: Sequence[Filter], left_out: int = 0) -> str:
    """left_out: filters that cannot be applied; a comment above says how many, and no more, as a shell may run it."""
    return _mark(left_out) + shlex.join(arguments(dataset, out, filters))


def as_yaml(filters: Sequence[Filter], left_out: int = 0) -> str:
    """The `selection` of a config, in the page's order."""
    steps = [
        {"where": f.sql} if f.kind == "where" else {f.kind: {f.column: amount(f) if f.percentile else f.amount}}
        for f in filters
    ]
    text = yaml.safe_dump({"selection": steps or "none"}, sort_keys=False, allow_unicode=True, width=1000)
    return _mark(left_out) + text


def amount(chosen: Filter) -> str:
    """The shortest text that reads back as the same number."""
    short = f"{chosen.amount:g}"
    return (short if float(short) == chosen.amount else repr(chosen.amount)) + ("%" if chosen.percentile else "")


class Taker:
    """One `select` at a time, in a child process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        self.state: dict[str, Any] = {"state": "none"}

    def start(self, inspected: Inspected, name: str, filters: Sequence[Filter]) -> dict[str, Any]:
        """Into a folder of that name beside the dataset. Raises SelectionError."""
        if not NAME.fullmatch(name):
            raise SelectionError(f"{name[:80]!r}: not a folder's name: letters, digits, . _ - and at most 64 of them")
        out = join(inspected.beside, name)
        if out == inspected.root or (not is_remote(out) and os.path.realpath(out) != out):
            raise SelectionError(f"{out}: choose another name")
        with self.lock:
            if self.state["state"] == "running":
                raise SelectionError("a selection is being written already: wait for it, or stop it")
            request = {"dataset": inspected.annotated, "out": out, "filters": [_packed(f) for f in filters]}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.inspector.panels.take.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            self.process.stdin.write(json.dumps(request))
            self.process.stdin.close()
            self.state = {"state": "running", "out": out, "done": 0, "total": 0, "failed": 0}
            threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()
            return self.state

    def stop(self) -> dict[str, Any]:
        with self.lock:
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.state = {**self.state, "state": "stopped"}
            return self.state

    def _listen(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            news = json.loads(line)
            with self.lock:
                if self.process is process and self.state["state"] == "running":
                    self.state = {**self.state, **news}
        process.wait()
        with self.lock:
            if self.process is process and self.state["state"] == "running":
                self.state = {
                    **self.state,
                    "state": "failed",
                    "error": f"ended unexpectedly (exit code {process.returncode})",
                }


def _mark(left_out: int) -> str:
    if not left_out:
        return ""
    return f"# without {left_out} filter{'s' if left_out > 1 else ''} of the page that cannot be applied\n"


def _not_selects(inspected: Inspected, chosen: Filter) -> str:
    """Why a filter on labels cannot be taken away."""
    unseen = f"{chosen.name}: `winnow select` does not see the labels in {join(inspected.root, labels.NAME)}"
    annotated = inspected.annotated
    if store_of(annotated).exists("dataset.json") and (is_remote(annotated) or os.access(annotated, os.W_OK)):
        return f"{unseen}: append that file to {join(annotated, labels.NAME)} and remove it, or turn the filter off"
    return f"{unseen}, as {inspected.annotated} is not there or cannot be written: put it back, or turn the filter off"


def _packed(chosen: Filter) -> dict[str, Any]:
    return {"kind": chosen.kind, "column": chosen.column, "amount": chosen.amount, "sql": chosen.sql}
