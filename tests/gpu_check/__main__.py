"""`make gpu-check`: what only a GPU can show, in at most eight minutes.

    python -m tests.gpu_check [--out out/gpu-check.md] [--seconds 480] [--only NAME ...]

Each row is printed when it is ready, and written to the table and to a .json beside it. A check that fails is a row with the
reason. Exit code: 0, all held; 1, something did not; 2, there is no GPU. --device cpu --small runs the same functions as small
as they can be: for tests, and to find faults in the checks themselves.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.gpu_check.checks import CHECKS, GROUPS, START
from tests.gpu_check.children import rows_of
from tests.gpu_check.rows import HEAD, Row, Table

LEAST = 0.3  # of what a group may take, that must be left for it to be begun


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check", description="What only a GPU can show.")
    parser.add_argument(
        "--out", type=Path, default=Path("out/gpu-check.md"), help="the table; .json is written beside it"
    )
    parser.add_argument("--seconds", type=float, default=480, help="for all checks; those that do not fit are left out")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), help="some checks")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="everything as small as it can be")
    given = parser.parse_args(arguments)
    if given.device == "cpu" and not given.small:
        parser.error("--device cpu: goes with --small, as svd.yaml's network is too large for a CPU")
    if given.device == "cuda" and not _gpu():
        print("gpu-check: torch sees no NVIDIA GPU on this machine: nothing was checked", file=sys.stderr)
        return 2
    return run(given)


def run(given: argparse.Namespace) -> int:
    began = time.monotonic()
    size = ", small" if given.small else ""
    table = Table(given.out, {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": given.device + size})
    print(HEAD, end="", flush=True)
    for group in GROUPS:
        checks = [check for check in group if not given.only or check.name in given.only]
        if not checks:
            continue
        left, wanted = given.seconds - (time.monotonic() - began), START + sum(check.seconds for check in checks)
        if left < LEAST * wanted:
            for check in checks:
                table.add(Row(check.name, why="left out, no time"))
            continue
        for row in rows_of(checks, given.device, given.small, min(left, wanted)):
            table.add(row)
    table.facts["seconds"] = round(time.monotonic() - began)
    table.write()
    bad = sum(row.ok is False for row in table.rows)
    print(f"{len(table.rows)} rows, {bad} not ok, {table.facts['seconds']} s: {given.out}", flush=True)
    return int(bad > 0)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
