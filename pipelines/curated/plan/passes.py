"""Clips of one source that are cheaper to cut in one pass over it than one by one, cut ahead of the shards they are for.

A clip that cannot be copied costs the decoding from the keyframe before it. Where many clips lie after one keyframe (a
screen recorder that wrote one, a file whose frames have to be counted), the cost of cutting each grows with the square of
the length. These are cut together, by one worker, and wait in the spool until the shard that each belongs to is written.
"""

from __future__ import annotations

from curate.clip import COUNTED
from curate.export.span import CLOSE, ClipForm

LEAST_SAVED, LEAST_RATIO = 5.0, 2.0  # s of decoding, and cost one by one over cost together, from which it is done

__all__ = ["grouped_sql"]


def grouped_sql(clips: str, form: ClipForm) -> str:
    """A query of the clips that are cut in passes: _position, and _group, the first position of their group.

    clips: a relation with _position, video_id, unit, clock, start_time, end_time, _keyframes and _decoded_from. A clip is
    alone where it can be copied: its packets have a clock, and it has a keyframe near its start.
    """
    late = f"start_time + {form.trim} * (end_time - start_time) + {CLOSE}"
    copied = f"""list_max(list_filter(_keyframes, lambda k: k <= {late})) >= start_time - {CLOSE}
                 AND coalesce(clock, '') <> '{COUNTED}'"""
    if not form.may_copy:
        copied = "false"
    return f"""
        WITH alone AS (
            SELECT _position, video_id, unit, _decoded_from AS origin, end_time, end_time - _decoded_from AS cost
            FROM {clips} WHERE NOT coalesce({copied}, false) AND _decoded_from IS NOT NULL),
        worth AS (
            SELECT video_id, unit, origin, min(_position) AS _group FROM alone GROUP BY video_id, unit, origin
            HAVING sum(cost) - (max(end_time) - origin) > {LEAST_SAVED}
               AND sum(cost) > {LEAST_RATIO} * (max(end_time) - origin))
        SELECT _position, _group FROM alone JOIN worth USING (video_id, unit, origin)"""
