"""Which columns of a table are scores of its clips: derived from the columns that are declared, so that a new one, ours or
a user's, shows up in statistics, plots and cards by itself."""

from __future__ import annotations

import pyarrow as pa

from pipelines.dataset.tables import CLIP_ADDRESS, CLIP_BOUNDS

__all__ = ["NOT_SCORES", "score_columns", "unit_of"]

NOT_SCORES = frozenset(
    column.name for column in (*CLIP_ADDRESS, *CLIP_BOUNDS)
)  # where a clip lies, not what it is like


def score_columns(schema: pa.Schema) -> list[str]:
    """Numeric columns of clips that say something of them, in the table's order."""
    numeric = (pa.types.is_floating, pa.types.is_integer)
    return [f.name for f in schema if f.name not in NOT_SCORES and any(test(f.type) for test in numeric)]


def unit_of(schema: pa.Schema, name: str) -> str:
    """The unit that a column declares; "" where it has none."""
    return ((schema.field(name).metadata or {}).get(b"unit") or b"").decode()
