"""The checks of `make gpu-check`, as small as they can be and on the CPU: each gives the rows that it should, and holds here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.gpu_check import __main__ as command
from tests.gpu_check import checks, network
from tests.gpu_check.checks import CHECKS, Check
from tests.gpu_check.children import rows_of
from tests.gpu_check.rows import Row, Table
from tests.gpu_check.setting import Setting

ROWS = {  # names of the rows of each, in order; how many of them hold something
    "card": (["card", "products of 512"], 0),
    "steps": (["step, 2x32x32, 1 at once", "step, 2x32x32, 1 at once", "step, 2x32x32, 2 at once"], 0),
    "probe": (["probe", "2 rows in one pass"], 2),
    "lora": (["step, 2x32x32, 1 at once, trained: LoRA"], 0),
    "samples": (["samples, CPU against cpu", "the same in bfloat16"], 1),
    "devices": (
        ["text encoder open_clip", "text encoder t5", "text encoder clip", "latents", "CLIP's", "the network"],
        6,
    ),
    "optimisers": (["fused AdamW", "ema_device", "adamw_8bit"], 2),
    "compiling": (["compile: blocks", "its losses"], 1),
    "spreading": (["fsdp on one device", "its losses in two steps", "its checkpoint in shards"], 3),
    "annotating": (["annotate"], 0),
    "training": (["winnow train"], 1),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", list(CHECKS))
def test_a_check_gives_its_rows_and_holds(name, tmp_path):
    rows = list(CHECKS[name].load()(Setting("cpu", True, tmp_path)))
    names, held = ROWS[name]
    assert [row.name[: len(start)] for row, start in zip(rows, names, strict=True)] == names
    assert all(row.ok is not False for row in rows), [str(row) for row in rows]
    assert sum(row.ok is True for row in rows) == held
    assert all(row.figure or row.why for row in rows)


def test_an_error_a_late_check_and_a_dead_process_are_rows_and_the_others_come(tmp_path):
    """By a real process, whose checks are here: what is told of each."""
    found = [
        Check("broken", "tests.gpu_check.faults", 30), Check("slow", "tests.gpu_check.faults", 0.5),
        Check("whole", "tests.gpu_check.faults", 30), Check("dead", "tests.gpu_check.faults", 30),
        Check("after", "tests.gpu_check.faults", 30),
    ]  # fmt: skip
    rows = {row.name: row for row in rows_of(found, "cpu", True, 100)}
    assert list(rows) == ["first", "broken", "begun", "slow", "whole", "dead", "after"]
    assert rows["broken"].why == "ZeroDivisionError: of a check" and rows["broken"].ok is False
    assert rows["slow"].why == "its 0 s were over" and rows["whole"].ok
    assert rows["dead"].why == rows["after"].why == "its process ended (7): no more of it"


def test_what_does_not_fit_the_time_is_left_out_and_the_table_says_so(tmp_path, capsys):
    out = tmp_path / "new" / "table.md"
    assert command.main(["--device", "cpu", "--small", "--seconds", "1", "--out", str(out)]) == 0
    told = json.loads(out.with_suffix(".json").read_text())
    assert [row["name"] for row in told["rows"]] == list(CHECKS)
    assert {row["why"] for row in told["rows"]} == {"left out, no time"} and told["device"] == "cpu, small"
    assert out.read_text().count("| told: left out, no time |") == len(CHECKS)
    assert "11 rows, 0 not ok" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line_and_code_two(capsys):
    assert command.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == "gpu-check: torch sees no NVIDIA GPU on this machine: nothing was checked\n"
    with pytest.raises(SystemExit):
        command.main(["--device", "cpu"])


def test_all_groups_together_are_given_no_more_than_their_share():
    """The checks that are worth most come first, and what a group may take leaves time for those after it."""
    assert [check.name for check in checks.GROUPS[0]][:2] == ["card", "steps"]
    assert all(sum(check.seconds for check in group) + checks.START <= 240 for group in checks.GROUPS)


def test_a_row_is_a_line_of_the_table(tmp_path):
    assert str(Row("a", "1 GB", "2 GB", False, "x | y")) == "| a | 1 GB | 2 GB | NOT OK: x / y |"
    table = Table(tmp_path / "t.md", {"device": "cuda"})
    table.add(Row("a", ok=True))
    assert table.path.read_text().endswith("| check | figure | expected | |\n|---|---|---|---|\n| a |  |  | ok |\n")


def test_the_plan_of_a_network_is_that_of_its_tensors():
    """What a measured peak is held to: without libraries, codec and what an allocator wastes, and by the plan's own sums."""
    setting = Setting("cpu", True, Path())
    found = network.planned(setting.svd().model_dump_json(), "hq", network.here("bfloat16"), 2)
    assert found["most"] == 2 and set(found["tensors"]) == {1, 2}
    stays = 16 * found["parameters"] + 4 * found["parameters"]  # weights, gradients, two moments, the average
    assert stays < found["tensors"][1] < found["tensors"][2] < found["peak"]
