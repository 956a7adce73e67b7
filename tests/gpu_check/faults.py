"""Checks that fail in each way that a check can: for the tests of what is told of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from tests.gpu_check.rows import Row
from tests.gpu_check.setting import Setting


def broken(setting: Setting) -> Iterator[Row]:
    yield Row("first", ok=True)
    raise ZeroDivisionError("of a check")


def slow(setting: Setting) -> Iterator[Row]:
    yield Row("begun", ok=True)
    time.sleep(60)


def whole(setting: Setting) -> Iterator[Row]:
    yield Row("whole", "1", "1", ok=True)


def dead(setting: Setting) -> Iterator[Row]:
    print("no more of it", flush=True)
    os._exit(7)
    yield Row("never")


def after(setting: Setting) -> Iterator[Row]:
    yield Row("after", ok=True)
