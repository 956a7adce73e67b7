import os

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"

import pytest

from pipelines.demo import make_footage, write
from tests.footage import pan


class Silent:
    """A watcher that remembers what it was told."""

    def __init__(self):
        self.units = []

    def planning(self, looked): ...

    def planned(self, units, seconds, already):
        self.started = (units, seconds, already)

    def committed(self, units): ...

    def unit(self, unit):
        self.units.append(unit)


@pytest.fixture
def watcher():
    return Silent()


@pytest.fixture(scope="session")
def demo_footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "footage"
    make_footage(folder)
    return folder


@pytest.fixture(scope="session")
def small_footage(tmp_path_factory):
    """Three films of two scenes each, 3.2 s, with a cut at frame 40; one file that is no video; one copy."""
    folder = tmp_path_factory.mktemp("small") / "footage"
    folder.mkdir()
    for number in range(3):
        write(folder / f"film {number}.mp4", [*pan(40, 2, seed=number), *pan(40, 4, seed=10 + number)])
    (folder / "text.mp4").write_text("no video")
    (folder / "z copy.mp4").write_bytes((folder / "film 0.mp4").read_bytes())
    return folder
