"""A cluster of two nodes on this machine: the second is killed, another joins, and the dataset is that of one process."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.pipelines.test_executor import tables
from tests.torture.nodes import Nodes
from tests.torture.processes import environment

SLOW = "tests/torture/slow_parts.py"


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="w") as short:  # sockets of Ray lie below it
        yield Path(short)


@pytest.mark.skipif(
    not os.environ.get("WINNOW_TWO_NODES"),
    reason="a minute, and a machine on which Ray starts in 15 s: WINNOW_TWO_NODES=1",
)
@pytest.mark.timeout(580)
def test_a_node_is_killed_and_another_joins(small_footage, folder):
    nodes = started(folder)
    try:
        command = ["annotate", str(small_footage), "--plugin", SLOW, "--stages", "slow_thought", "--out"]
        on_cluster = [*command, str(folder / "d"), "--executor", "ray", "--workers", "2", "--address", nodes.address]
        process = cli(on_cluster, folder)
        replaced = []
        while process.poll() is None and not replaced:
            if len(nodes.marked.of("decoder")) == 2:  # both workers are at work, one on each node
                replaced.append(
                    nodes.replace_one()
                )  # Ray ends the cluster where a node takes longer than 30 s to start
            time.sleep(0.1)
        assert replaced and process.wait(300) == 1, (folder / "said").read_text()  # the text file failed
    finally:
        nodes.close()
    assert cli([*command, str(folder / "calm"), "--executor", "inline"], folder).wait(120) == 1
    assert tables(folder / "d") == tables(folder / "calm")


def started(folder):
    """Ray gives the daemons of a node 30 s to start, and its agents 15, whatever else the machine does."""
    for turn in range(2):
        with suppress(RuntimeError):
            return Nodes(f"{folder}/{turn}", folder)
    pytest.skip("Ray cannot start two nodes on this machine now")


def cli(arguments, folder):
    with open(folder / "said", "w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *arguments], env=environment("", folder), stdout=said, stderr=said
        )
