"""What a dataset says of the run that works on it: alive, silent or ended, as far as another machine can tell.

Clocks of machines differ, so a time in the state alone proves nothing: a run lives while its state changes. Where the state
looks old, it is read again after as long as a living run would have taken to write a new one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from curate.base.store import Store, store_of
from curate.base.store.files import database
from pipelines.dataset.dataset import Dataset, DatasetError
from pipelines.dataset.statistics import footage_sql
from pipelines.status.runlog import SHOWN, STATUS, holder

RUNNING, SILENT, ENDED, RECORDED = "running", "silent", "ended", "recorded"
GRACE = 5.0  # s, for a store to answer
STUCK = 60.0  # s without any result after which it is said what the run waits for


@dataclass(frozen=True)
class Report:
    """A run as it is seen from here. life: RUNNING, SILENT, ENDED, or RECORDED (no run is known, the tables tell).

    silence: seconds without a sign of life, at least. state: the content of status.json; from tables, what of it they hold.
    gone: the process was looked for on this machine, and is not there.
    """

    place: str
    life: str
    state: Mapping[str, Any]
    silence: float = 0.0
    gone: bool = False

    @property
    def waits_for(self) -> list[str]:
        """What a run without progress waits for; empty where it moves."""
        return _waits_for(self.state) if self.life == RUNNING else []

    def to_dict(self) -> dict[str, Any]:
        found = {"place": self.place, "life": self.life, "silence": self.silence, "gone": self.gone}
        return found | {"waits_for": self.waits_for, "status": dict(self.state)}


def report(place: str, sleep: Callable[[float], None] = time.sleep) -> Report:
    """The run of a dataset at a path or URL. Takes seconds where its state looks old. Raises DatasetError, StoreError."""
    store = store_of(place)
    found = _read(store)
    if found is None:
        return Report(str(store), RECORDED, _from_tables(store))
    state, age = found
    if state["state"] != "running":
        return Report(str(store), ENDED, state)
    here = _here(state)
    if here is False:
        return Report(str(store), SILENT, state, max(0.0, age), gone=True)
    every = state["every"]
    if here or 0 <= age < 3 * every + GRACE:
        return Report(str(store), RUNNING, state, max(0.0, age))
    waited = 2 * every + GRACE
    sleep(waited)
    again, _ = _read(store) or found
    if (again["run"], again["beats"]) != (state["run"], state["beats"]):
        return Report(str(store), RUNNING if again["state"] == "running" else ENDED, again)
    return Report(str(store), SILENT, state, max(age + waited, waited))


def _read(store: Store) -> tuple[dict[str, Any], float] | None:
    """(state, its age in seconds by the store's clock and ours); None where there is none."""
    try:
        written = store.head(STATUS).modified
        state = json.loads(store.read(STATUS))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DatasetError(
            f"{store.where(STATUS)}: damaged ({error}): delete it; the next run writes it anew"
        ) from None
    return state, time.time() - (written / 1e9 if written else state["time"])


def _here(state: Mapping[str, Any]) -> bool | None:
    """Whether the run's process lives on this machine; None where that is another machine, or not known."""
    known, me = state["holder"], holder()
    if not known["machine"] or known["machine"] != me["machine"]:
        return None
    with suppress(psutil.Error):
        process = psutil.Process(known["pid"])
        return process.create_time() <= state["began"] + 1 and process.status() != psutil.STATUS_ZOMBIE
    return False


def _waits_for(state: Mapping[str, Any]) -> list[str]:
    still = state["time"] - state["moved"]
    found = [state["waiting"]["for"]] if state["waiting"] else []
    if still < STUCK and not found:
        return []
    for name, pool in state["pools"].items():
        if pool["there"] < pool["wanted"]:
            what = f" ({pool['waits_for']})" if pool["waits_for"] else ""
            found.append(f"{pool['wanted'] - pool['there']} of {pool['wanted']} workers of {name}{what}")
    longest = state["running"]["longest"]
    if longest:
        unit, others = longest[0], state["running"]["units"] - 1
        limit = f" of at most {unit['limit']:.0f} s" if unit["limit"] else ""
        where = f" in {unit['pool']}" if unit["pool"] else ""
        beside = f", and {others} more" if others else ""
        found.append(f"{unit['path']}, for {unit['seconds']:.0f} s{limit}{where}{beside}")
    elif not state["planned"]["final"]:
        found.append("planning: files are found and opened")
    return found or ["nothing that is known"]


def _from_tables(store: Store) -> dict[str, Any]:
    """What the tables hold of a state: counts, time by stage, slowest units, failures."""
    data, db = Dataset(store), database()
    videos = data.videos_sql
    facts = [row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {videos}").fetchall()]
    counts = dict(db.execute(f"SELECT status, count(*) FROM {videos} GROUP BY 1 ORDER BY 2 DESC").fetchall())
    footage = f"SELECT {footage_sql(facts)} AS d FROM {videos} WHERE status = 'ok' GROUP BY video_id"
    (seconds,) = db.execute(f"SELECT coalesce(sum(d), 0) FROM ({footage})").fetchall()[0]
    (clips,) = db.execute(f"SELECT count(*) FROM {data.clips_sql}").fetchall()[0]
    stages = f"SELECT e.key, sum(e.value) FROM (SELECT unnest(map_entries(seconds)) AS e FROM {videos}) GROUP BY 1"
    slowest = f"""SELECT video_path, list_sum(map_values(seconds)) AS s FROM {videos}
                  ORDER BY s DESC NULLS LAST, 1 LIMIT {SHOWN}"""
    reasons = f"SELECT error, count(*) FROM {videos} WHERE status = 'failed' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50"
    return {
        "state": "recorded", "done": counts, "footage": seconds, "clips": clips, "committed": sum(counts.values()),
        "stages": dict(db.execute(f"{stages} ORDER BY 2 DESC").fetchall()),
        "slowest": [{"path": path, "wall": wall or 0.0} for path, wall in db.execute(slowest).fetchall()],
        "reasons": dict(db.execute(reasons).fetchall()),
    }  # fmt: skip


__all__ = ["ENDED", "RECORDED", "RUNNING", "SILENT", "Report", "report"]
