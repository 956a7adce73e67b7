"""Rows of the table: how they are made, and kept as they come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HEAD = "| check | figure | expected | |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """ok: None where there is nothing to hold a figure to. why: of a row that is not ok, or that is no figure."""

    name: str
    figure: str = ""
    expected: str = ""
    ok: bool | None = None
    why: str = ""

    def __str__(self) -> str:
        said = {True: "ok", False: "NOT OK", None: "told"}[self.ok]
        told = self.why.replace("|", "/")
        return f"| {self.name} | {self.figure} | {self.expected} | {said}{': ' + told if told else ''} |"


def line_of(error: BaseException) -> str:
    """An error as a row tells it."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass
class Table:
    """The rows so far, on the screen and in two files, which are whole after each row."""

    path: Path  # of the table; the same rows as JSON beside it
    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        said = "; ".join(f"{key}: {value}" for key, value in self.facts.items())
        text = f"# GPU check\n\n{said}\n\n{HEAD}" + "".join(f"{row}\n" for row in self.rows)
        self.path.write_text(text, encoding="utf-8")
        told = json.dumps(self.facts | {"rows": [asdict(row) for row in self.rows]}, indent=1)
        self.path.with_suffix(".json").write_text(told, encoding="utf-8")
