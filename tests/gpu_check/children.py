"""A group of checks in a process of its own, whose rows come as they are ready."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.gpu_check.checks import START, Check
from tests.gpu_check.rows import Row, line_of

EXACT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class Late(BaseException):
    """A check's time is over; of no class that code which is tried again, or told, would catch."""


def rows_of(checks: Sequence[Check], device: str, small: bool, seconds: float) -> Iterator[Row]:
    """The rows of some checks; for one that does not come to its end, a row with the reason. seconds: for all of them."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        told, output = Path(folder) / "rows.jsonl", Path(folder) / "output.txt"
        told.touch()
        command = [sys.executable, "-m", "tests.gpu_check.children", device, str(int(small)), folder]
        with open(output, "wb") as sink:
            process = subprocess.Popen(
                [*command, *(f"{check.module}:{check.name}:{check.seconds}" for check in checks)],
                env=os.environ | EXACT, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        until, seen, left = time.monotonic() + seconds, 0, [check.name for check in checks]
        try:
            while True:
                over = process.poll() is not None
                lines = told.read_text().splitlines()
                for line in map(json.loads, lines[seen:]):
                    if "done" in line:
                        left.remove(line["done"])
                    else:
                        yield Row(**line)
                seen = len(lines)
                if over or not left or time.monotonic() > until:
                    break
                time.sleep(0.1)
        finally:
            late = process.poll() is None
            with suppress(ProcessLookupError):  # what it has started too, which may be busy still
                os.killpg(process.pid, signal.SIGKILL)  # the session that was begun for it
            process.wait()
        last = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()][-1:]
        why = (
            f"stopped after {seconds:.0f} s"
            if late
            else f"its process ended ({process.returncode}): {' '.join(last)[:250]}"
        )
        for name in left:
            yield Row(name, ok=False, why=why)


def _work(device: str, small: bool, folder: Path, checks: Sequence[Check]) -> None:
    """In the process of a group."""
    import torch

    from tests.gpu_check.setting import Setting

    if device == "cpu":
        torch.set_num_threads(1)

    def late(number: int, frame: Any) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    with open(folder / "rows.jsonl", "a", encoding="utf-8") as told:

        def tell(line: dict[str, Any]) -> None:
            told.write(json.dumps(line) + "\n")
            told.flush()

        for i, check in enumerate(checks):
            name, seconds = check.name, check.seconds + (0 if i else START)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            place = folder / name
            place.mkdir()
            try:
                for row in check.load()(Setting(device, small, place)):
                    tell(asdict(row))
            except Late:
                tell(asdict(Row(name, ok=False, why=f"its {seconds:.0f} s were over")))
            except Exception as error:
                tell(asdict(Row(name, ok=False, why=line_of(error))))
            signal.setitimer(signal.ITIMER_REAL, 0)
            tell({"done": name})
            gc.collect()
            if device == "cuda":
                with suppress(RuntimeError):  # of an error that was told, and stays
                    torch.cuda.empty_cache()


def _read(text: str) -> Check:
    module, name, seconds = text.split(":")
    return Check(name, module, float(seconds))


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2] == "1", Path(sys.argv[3]), [_read(text) for text in sys.argv[4:]])
