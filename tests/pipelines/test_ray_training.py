"""Ray beside a training run: never a stray cluster, a limit to each wait, and errors that would come again end the run."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipelines import ray_training
from pipelines.ray_training import Followed, Told, would_come_again
from pipelines.training import TrainingError, TrainingJob
from tests.video_model.test_stages import config
from video_model.errors import RunError
from video_model.workers import WorkerError

SESSION = """
import os, sys
from pipelines import cluster

cluster.START_SECONDS = float(sys.argv[1])
try:
    with cluster.RaySession(None, "leave --workers out", print) as session:
        import ray
        from ray.util.placement_group import placement_group

        said = ray.remote(lambda: os.environ.get("RAY_ADDRESS"))
        print("address in a worker:", ray.get(said.remote()), "here:", os.environ.get("RAY_ADDRESS"))
        cluster.place({"CPU": 0.5}, 2, print)
        held = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
        held.wait(30)
        for bundle, seconds in (({"CPU": 99.0}, None), ({"CPU": 0.5}, 1.0)):
            try:
                cluster.place(bundle, 2, print, seconds)
            except cluster.ExecutorError as error:
                print("error:", error)
        print("watched:", *sorted(session.daemons.values()), len(cluster.OPEN))
    print("not watched:", session.daemons, cluster.OPEN)
    print("again here:", os.environ.get("RAY_ADDRESS"))
except cluster.ExecutorError as error:
    print("error:", error)
"""


@pytest.fixture
def stray():
    """A private folder of Ray's, where a dead cluster is noted as the last one; its paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="stray", dir="/tmp"))
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def session(stray: Path, seconds: float) -> list[str]:
    environment = os.environ | {"RAY_TMPDIR": str(stray), "RAY_ADDRESS": "127.0.0.1:1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SESSION, str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    again = "Ray did not start: trying again"  # on a machine that is overloaded
    return [line for line in dict.fromkeys(done.stdout.splitlines()) if line != again]


def left_behind(stray: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(stray) in part for part in process.cmdline()):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


def test_a_cluster_that_another_command_noted_is_not_joined(stray):
    lines = session(stray, 120)
    assert lines[0] == "starting Ray on this machine"
    assert lines[1] == "address in a worker: None here: None" and lines[-1] == "again here: 127.0.0.1:1"
    assert lines[2].startswith("2 workers wanted, of 0.5 CPUs each; ")
    assert "watched: gcs_server raylet 1" in lines and "not watched: {} []" in lines
    never, later = (line for line in lines if line.startswith("error:"))
    assert "2 workers of 99 CPUs each cannot be placed: there is not as much (0 of" in never
    assert "2 workers of 0.5 CPUs each cannot be placed, also after 1 s (0 of" in later and "end other jobs" in later


def test_a_start_that_takes_too_long_is_an_error_and_leaves_nothing(stray):
    (line,) = (line for line in session(stray, 0.5) if line.startswith("error:"))
    assert line.startswith("error: Ray cannot be started on this machine (it was not there within 0 s")
    assert line.endswith("free memory and processors, or leave --workers out")
    until = time.monotonic() + 20
    while left_behind(stray) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left_behind(stray)


class Screen:
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)

    def phase(self, what, done, total):
        self.lines.append(f"{what}: {done} of {total}")

    def stage(self, name, first, steps, facts): ...

    def step(self, name, step, numbers): ...


def test_what_the_first_worker_tells_is_shown_and_silence_is_an_error(tmp_path, monkeypatch):
    screen = Screen()
    followed = Followed(TrainingJob(config(), (), str(tmp_path)), screen)
    followed.look()
    monkeypatch.setattr(ray_training, "GROUP_SECONDS", -1)
    with pytest.raises(TrainingError, match=r"group was not up within -1 s: .*NCCL_SOCKET_IFNAME.*--resume"):
        followed.look()
    told = Told(tmp_path / ray_training.PROGRESS)
    told.note("2 workers up, on cpu")
    told.phase("codec", 5, 5)
    followed.look()
    followed.look()
    assert screen.lines == ["2 workers up, on cpu", "codec: 5 of 5"]
    told.stage("image", 0, 9, {})
    followed.look()
    monkeypatch.setattr(ray_training, "STEP_SECONDS", -1)
    with pytest.raises(
        TrainingError, match=r"no sign of the workers .* before the first step \(stage image: first step\)"
    ):
        followed.look()
    assert told.stepped() is False
    followed.look()  # a step was taken: what a step may take is not known


def test_which_errors_would_come_again():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")):
        line = would_come_again(error)
        assert line.startswith("a worker ran out of memory") and "loop.checkpointing=true" in line and "\n" not in line
    assert would_come_again(RunError("x: is no run")) == "x: is no run"
    for error in (WorkerError("another worker was lost"), RuntimeError("NCCL error"), OSError(5, "Input/output error")):
        assert would_come_again(error) is None
