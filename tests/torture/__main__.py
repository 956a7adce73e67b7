"""Kill anything at any moment, start the same command again, and compare: `make torture`.

    python -m tests.torture                    50 runs with fixed seeds; exit code 1 if one of them fails
    python -m tests.torture --seed 17          one of them again
    python -m tests.torture --runs 10 --only inline --place disk

Each run annotates the same small footage through the command line in a process of its own, while the driver, what it
supervises, workers, decoders, Ray's own processes or a node are killed at moments drawn by the seed, and starts the command
again until it says that it is done. Then rows, ids, the bytes of a selection, processes and temporary files are compared with
those of an undisturbed run. Only processes that a run started are touched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.torture import checks
from tests.torture.footage import make_footage
from tests.torture.places import Bucket, Disk
from tests.torture.plans import PLACES, WEIGHTS, Plan, plan_of
from tests.torture.runs import TABLES, Place, Reference, Result, Run


class Torture:
    """The places with their footage, and the undisturbed run in each."""

    def __init__(self, scratch: Path, console: Console) -> None:
        self.scratch, self.console = scratch, console
        self.footage = scratch / "made"
        make_footage(self.footage)
        self.disk = Disk(scratch / "disk")
        self.disk.upload(self.footage, "footage")
        self.references: dict[str, Reference] = {}

    def run(self, plan: Plan, keep: bool) -> Result:
        """One run, and a line about it."""
        run = Run(str(plan.seed), self._place(plan), self.scratch, plan)
        result = run.make(self.references[plan.place])
        run.place.close()
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result.killed.items()))
        self.console.print(
            f"seed {plan.seed}: {plan.place}, {plan.executor}: {kinds or 'nothing'} killed, {result.attempts} starts, "
            f"{result.seconds:.0f} s: {'equal' if not result.faults else 'WRONG'}", highlight=False,
        )  # fmt: skip
        for fault in result.faults[:8]:
            self.console.print(f"    {fault}", style="red", markup=False, highlight=False, soft_wrap=True)
        if result.faults:
            self.console.print(f"    what was said: {run.scratch / 'log'}", highlight=False)
        elif not keep:
            run.clear()
        return result

    def _place(self, plan: Plan) -> Place:
        """The disk with the footage, or a bucket of a server of its own."""
        if plan.place == "bucket":
            place = Bucket(plan.seed if plan.seed >= 0 else None)
            place.upload(self.footage, "footage")
            return place
        return self.disk

    def prepare(self, plan: Plan) -> None:
        """The reference of a place, made on the first executor that is asked for; others must give the same, and are timed."""
        known = self.references.get(plan.place)
        if known and plan.executor in known.calm:
            return
        calm = Plan(-1, plan.place, plan.executor, plan.workers, (), ())
        run = Run(f"{plan.executor[0]}{plan.place[0]}", self._place(calm), self.scratch, calm)
        result = run.make(known)
        if result.faults:
            raise SystemExit(f"the undisturbed run on {plan.executor}, {plan.place}: " + "; ".join(result.faults[:5]))
        if known is None:
            known = self.references[plan.place] = run.reference()
            for other in self.references.values():
                for table in TABLES:
                    if found := checks.differences(known.rows[table], other.rows[table], table, checks.OF_THE_PLACE):
                        raise SystemExit(f"undisturbed runs differ between places: {found[:5]}")
        known.calm[plan.executor] = run.calm["annotate"]
        known.calm["select"] = run.calm["select"]
        run.clear()
        run.place.close()


def table_of(results: list[Result]) -> Table:
    table = Table(title="torture", title_justify="left")
    for name in ("seed", "place", "executor", "killed", "starts", "s", "verdict"):
        table.add_column(name, justify="right" if name in ("seed", "starts", "s") else "left")
    for result in results:
        killed = ", ".join(f"{count} {kind}" for kind, count in sorted(result.killed.items()))
        table.add_row(
            str(result.plan.seed), result.plan.place, result.plan.executor, killed or "nothing", str(result.attempts),
            f"{result.seconds:.0f}", f"[red]{len(result.faults)} faults" if result.faults else "equal",
        )  # fmt: skip
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--only", choices=WEIGHTS, help="only runs on this executor")
    parser.add_argument("--place", choices=PLACES, help="only runs there")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--keep", action="store_true", help="keep the datasets of runs that were right")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.runs) if options.seed is None else [options.seed]
    plans = [plan for plan in map(plan_of, seeds) if options.only in (None, plan.executor)]
    plans = [plan for plan in plans if options.place in (None, plan.place)]
    console = Console(width=130)
    scratch = Path(tempfile.mkdtemp(prefix="tor-", dir="/tmp"))  # short: Ray's sockets lie below it
    torture = Torture(scratch, console)
    for plan in plans:
        torture.prepare(plan)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda plan: torture.run(plan, options.keep), plans))
    wrong = [result.plan.seed for result in results if result.faults]
    console.print(table_of(results))
    if wrong:
        console.print(
            f"again: {'; '.join(f'python -m tests.torture --seed {seed}' for seed in wrong)}", highlight=False
        )
    elif not options.keep:
        shutil.rmtree(scratch, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
