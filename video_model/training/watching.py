"""Who follows a long run."""

from __future__ import annotations

from typing import Any, Protocol


class TrainingWatcher(Protocol):
    """Called as things happen; every method may do nothing."""

    def note(self, line: str) -> None: ...

    def phase(self, what: str, done: int, total: int) -> None: ...

    def stage(self, name: str, first: int, steps: int, facts: dict[str, Any]) -> None: ...

    def step(self, name: str, step: int, numbers: dict[str, float]) -> None: ...


class Silent:
    def note(self, line: str) -> None: ...

    def phase(self, what: str, done: int, total: int) -> None: ...

    def stage(self, name: str, first: int, steps: int, facts: dict[str, Any]) -> None: ...

    def step(self, name: str, step: int, numbers: dict[str, float]) -> None: ...
