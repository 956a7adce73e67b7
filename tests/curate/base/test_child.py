"""A process that answers: what it gives back, what it costs when it dies, and how its loss is named."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from curate.base.child import CRASH, KILLED, MEMORY, RAISED, TIME, Child, Lost, NotStarted, in_order, silent_stderr


def answer(request: dict) -> dict:
    """What the children of this file do."""
    match request["do"]:
        case "double":
            return {"doubled": request["data"] * 2, "pid": os.getpid()}
        case "raw":
            return {"left": memoryview(b"ab"), "right": memoryview(request["data"]), "beside": 1}
        case "raise":
            raise ValueError("no such thing")
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "sleep":
            time.sleep(60)
        case "grow":
            return {"kept": len([bytearray(50_000_000) for _ in range(100)])}


@pytest.fixture
def child():
    made = Child(__name__, timeout=60, memory_gb=1.0, name="adder", setting="adding.memory_gb")
    yield made
    made.close()


def test_bytes_go_there_and_back_and_the_process_stays(child):
    first, second = (child.ask({"do": "double", "data": data}) for data in (b"\x00\xff", b""))
    assert first["doubled"] == b"\x00\xff\x00\xff" and second["doubled"] == b""
    assert first["pid"] == second["pid"] == child.pid != os.getpid()


def test_views_come_as_bytes_that_can_be_written_to(child):
    found = child.ask({"do": "raw", "data": b"x" * 100_000}, max_bytes=100_000)
    assert found == {"left": b"ab", "right": b"x" * 100_000, "beside": 1} and isinstance(found["left"], bytearray)
    with pytest.raises(Lost, match="the adder answered with more than 99999 bytes"):
        child.ask({"do": "raw", "data": b"x" * 100_000}, max_bytes=99_999)
    assert child.ask({"do": "double", "data": b"a"})["doubled"] == b"aa"


@pytest.mark.parametrize(
    "do, kind, reason",
    [
        ("raise", RAISED, "ValueError: no such thing"),
        ("abort", CRASH, "the adder crashed (SIGABRT)"),
        ("exit", CRASH, "the adder's process ended unexpectedly (exit code 3)"),
        ("grow", MEMORY, "needs more than 1 GB of memory (adding.memory_gb)"),
    ],
)
def test_a_loss_has_a_kind_and_a_reason_and_the_next_request_is_answered(child, do, kind, reason):
    with pytest.raises(Lost) as caught:
        child.ask({"do": do})
    assert (caught.value.kind, str(caught.value)) == (kind, reason)
    assert child.ask({"do": "double", "data": b"a"})["doubled"] == b"aa"


def test_late_or_killed(child):
    with pytest.raises(Lost) as caught:
        child.ask({"do": "sleep"}, timeout=0.5)
    assert (caught.value.kind, str(caught.value)) == (TIME, "took longer than 0.5 s")
    pid = child.ask({"do": "double", "data": b""})["pid"]
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(Lost, match=r"^the adder's process was killed from outside \(SIGKILL") as caught:
        child.ask({"do": "sleep"})
    assert caught.value.kind == KILLED


def test_an_answer_larger_than_allowed_ends_the_child(child):
    assert child.ask({"do": "double", "data": b"x" * 1000}, max_bytes=4000)["doubled"] == b"x" * 2000
    with pytest.raises(Lost, match="the adder answered with more than 1500 bytes"):
        child.ask({"do": "double", "data": b"x" * 1000}, max_bytes=1500)
    assert child.pid is None


def test_closed_means_ended(child):
    pid = child.ask({"do": "double", "data": b""})["pid"]
    child.close()
    assert not psutil.pid_exists(pid) and child.pid is None


def test_a_module_that_is_not_there_is_no_requests_fault(monkeypatch):
    monkeypatch.setattr("curate.base.child.START_RETRY_SECONDS", ())
    with pytest.raises(NotStarted, match=r"the decoder's process cannot start .*ModuleNotFoundError.*: free memory"):
        Child("no.such.module").ask({})


def test_in_order_whatever_takes_long_and_only_so_many_ahead():
    begun = []

    def work(number):
        time.sleep(0.05 * (number % 3 == 0))
        return number * number

    def items():
        for number in range(10):
            begun.append(number)
            yield number

    with ThreadPoolExecutor(3) as threads:
        results = in_order(threads, work, items(), 4)
        assert next(results) == 0 and begun == [0, 1, 2, 3]
        assert list(results) == [n * n for n in range(1, 10)]


def test_native_writes_to_standard_error_go_nowhere(capfd):
    with silent_stderr():
        os.write(2, b"a page of a library")
    os.write(2, b"ours")
    assert capfd.readouterr().err == "ours"
