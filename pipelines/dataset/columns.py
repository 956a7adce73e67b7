"""Which columns of a table are scores, derived from the schema, so that new ones appear in statistics, plots and cards."""

from __future__ import annotations

import pyarrow as pa

from pipelines.dataset.tables import CLIP_ADDRESS, CLIP_BOUNDS

__all__ = ["NOT_SCORES", "score_columns", "unit_of"]

NOT_SCORES = frozenset(column.name for column in (*CLIP_ADDRESS, *CLIP_BOUNDS))  # position of a clip, not its content


def score_columns(schema: pa.Schema) -> list[str]:
    """Numeric columns of clips that describe their content, in the table's order."""
    numeric = (pa.types.is_floating, pa.types.is_integer)
    return [f.name for f in schema if f.name not in NOT_SCORES and any(test(f.type) for test in numeric)]


def unit_of(schema: pa.Schema, name: str) -> str:
    """The declared unit of a column; "" if it has none."""
    return ((schema.field(name).metadata or {}).get(b"unit") or b"").decode()
