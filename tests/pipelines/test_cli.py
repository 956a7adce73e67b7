"""The command line as a person meets it: exit codes, and every error one line that starts with `winnow:`."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from curate.base.store import StoreError, store_of
from curate.base.store.files import database, readable_by_sql
from pipelines.annotation.summary import Summary
from pipelines.annotation.tasks import Report
from pipelines.annotation.workers.ray_worker import StageWorker
from pipelines.cli import app as cli
from pipelines.cli.errors import errors
from pipelines.cli.progress import LiveProgress, print_summary
from pipelines.cluster import ExecutorError
from pipelines.config import load

PASS = ["--executor", "inline", "--stages", "shots,motion,stills"]
INLINE = ["--executor", "inline"]
LIGHT = [
    *("--set", "text={kind: rapidocr, size: 320}", "--set", "captions.merge=null"),
    *("--set", "appearance.quality=null", "--set", "appearance.nsfw=null"),
]
ENDPOINT = "captions.merge={kind: endpoint, url: '%s', model: x%s}"


def winnow(*arguments):
    """(exit code, everything printed) of the command line, in this process."""
    result = CliRunner().invoke(cli.app, [str(item) for item in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def refused(*arguments):
    """The one line of a command that could not start."""
    code, output = winnow(*arguments)
    lines = output.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("winnow: "), output
    return lines[0]


@pytest.fixture(scope="module")
def dataset(small_footage, tmp_path_factory):
    """Three films with only the pass done; nothing failed."""
    out = tmp_path_factory.mktemp("cli") / "dataset"
    code, output = winnow("annotate", f"{small_footage}/film*.mp4", "--out", out, *PASS)
    assert code == 0 and "Traceback" not in output, output
    return out


@pytest.fixture
def never(monkeypatch):
    """Fails the test if any video is looked at."""
    monkeypatch.setattr("pipelines.annotation.annotate.annotate", lambda *_, **__: pytest.fail("work was begun"))


# --- what goes well


def test_the_program_itself():
    command = [sys.executable, "-m", "pipelines.cli"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("winnow ")
    done = subprocess.run([*command, "stats", "/nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("winnow: /nowhere: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "annotate", "select", "stats", "models"])
def test_every_command_has_help(command):
    code, output = winnow(command, "--help")
    assert code == 0 and "Usage:" in output


def test_help_names_the_exit_codes():
    code, output = winnow("--help")
    words = " ".join(output.replace("│", " ").split())
    assert code == 0 and "0 done, 1 done with failures recorded, 2 could not start" in words
    assert "3 a defect of Winnow" in words


def test_annotate_records_failures_and_says_so(small_footage, tmp_path):
    code, output = winnow("annotate", small_footage / "text.mp4", "--out", tmp_path / "d", *PASS)
    assert code == 1 and "failed 1 video" in " ".join(output.split())
    code, output = winnow("annotate", small_footage / "text.mp4", "--out", tmp_path / "d", *PASS)
    assert code == 1 and "+ 1 in earlier runs: --retry-failed" in output


def test_select_and_stats(dataset, tmp_path):
    filters = ["--min", "num_frames=20", "--where", "width > 10"]
    code, output = winnow("select", dataset, "--out", tmp_path / "c", *filters, "--dry-run")
    assert code == 0 and "Funnel" in output and not (tmp_path / "c").exists()
    options = ["--shard-size", "1MB", "--seed", "3", "--workers", "1"]
    code, output = winnow("select", dataset, "--out", tmp_path / "c", *filters, *options)
    assert code == 0 and "6 clips" in output
    code, output = winnow("stats", tmp_path / "c")
    assert code == 0 and "selected from 6 clips" in output
    code, output = winnow("stats", dataset)
    assert code == 0 and "motion_score" in output and "no funnel: " in output  # text_area has not been computed


def test_models():
    code, output = winnow("models")
    assert code == 0 and "text_area" in output and "missing" not in output
    code, output = winnow("models", "svd")
    assert code == 1 and "missing" in output and "Mistral-7B-Instruct-v0.2" in output


@pytest.mark.timeout(300)
def test_run(small_footage, tmp_path):
    films = [small_footage / "film 0.mp4", small_footage / "text.mp4"]
    keep = ["--set", "selection={where: num_frames > 20}", *LIGHT, *INLINE, "--workers", "1"]
    code, output = winnow("run", *films, "--out", tmp_path / "out", *keep)
    assert code == 1 and "2 clips" in output, output  # 1: the text file failed
    assert (tmp_path / "out/curated/selection.json").exists()
    # Another selection would need another folder: known before anything is annotated.
    other = ["--set", "selection={where: num_frames > 30}", *LIGHT, *INLINE]
    assert "holds another selection" in refused("run", *films, "--out", tmp_path / "out", *other)


# --- what `run` finds out before any work


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["selection={min: {motion_scor: 1}}"], "did you mean motion_score"),
        (["selection={min: {video_path: 1}}"], "not a number"),
        (["selection={where: motion_score >> }"], "one SQL condition"),
        (["selection={where: motion_score}"], "not a condition"),
        (["selection={where: speed > 1}"], "no column speed"),
        (["selection={where: \"(SELECT count(*) FROM read_csv('/etc/passwd')) > 0\"}"], "may not reach files"),
        (["selection={where: random() < 0.5}"], "another answer each time"),
        (["selection={min: {aesthetic_score: 5}}"], "appearance.aesthetic"),
        (["selection={where: aesthetic_score > 5}"], "appearance.aesthetic"),
        (["appearance.nsfw=null"], "max nsfw_score=0.9: nsfw_score will be null for every clip"),
        (["selection=swd"], "no preset named"),
    ],
)
def test_run_checks_its_selection_before_any_work(changes, expected, small_footage, tmp_path, never):
    changes = [item for change in changes for item in ("--set", change)]
    assert expected in refused("run", small_footage, "--out", tmp_path / "out", *changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "where",
    [
        "caption_merged IS NULL OR aesthetic_score > 5",
        "source_columns->>'licence' = 'cc'",
        "row_number() OVER (PARTITION BY video_id ORDER BY motion_score DESC) <= 3",
        "motion_score > (SELECT avg(motion_score) FROM clips)",
        "cardinality(errors) = 0",
    ],
)
def test_selections_that_can_be_made_are_not_refused(where):
    from pipelines.curated.preflight import check_filters

    config = load("quickstart", [f"selection={json.dumps({'where': where, 'drop_top': {'text_area': 5}})}"])
    check_filters(config.filters, config)


def test_run_checks_its_output_before_any_work(small_footage, tmp_path, never):
    (tmp_path / "curated").mkdir()
    (tmp_path / "curated/holiday.jpg").write_bytes(b"mine")
    assert "is not empty and not a curated dataset" in refused("run", small_footage, "--out", tmp_path)


# --- errors of the options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "shots.min_seconds=[1"], "not readable as YAML"),
        (["--set", "shots.min_seconds=2024-99-99"], "not readable as YAML"),
        (["--set", ENDPOINT % ("localhost:8000/v1", "")], "captions.merge.url must start with http:// or https://"),
        (["--set", ENDPOINT % ("http://[::1/v1", "")], "captions.merge.url must start with"),
        (["--set", ENDPOINT % ("http://a/v1", ", api_key_env: WINNOW_NO_KEY")], "WINNOW_NO_KEY is not set"),
        (["--set", "export.shard_size=0"], "must be greater than 0"),
        (["--stages", ""], "choose from shots, motion"),
        (["--stages", " , "], "choose from shots, motion"),
        (["--stages", "shot"], "no such stage"),
        (["--executor", "slurm"], "choose ray or inline"),
        (["--config", "quikstart"], "not one of the shipped configs"),
    ],
)
def test_wrong_options(options, expected, small_footage, tmp_path):
    message = refused("annotate", small_footage, "--out", tmp_path / "d", *INLINE, *options)
    assert expected in message and not (tmp_path / "d").exists()


def test_a_key_is_only_needed_where_captions_are_made(dataset, small_footage):
    endpoint = ENDPOINT % ("http://a/v1", ", api_key_env: WINNOW_NO_KEY")
    code, output = winnow("annotate", "--out", dataset, *PASS, "--set", endpoint)
    assert code == 0, output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--shard-size", "abc"], "--shard-size: size 'abc': write a number and a unit, e.g. 256MB"),
        (["--shard-size", "0MB"], "--shard-size: size '0MB': must be greater than 0"),
        (["--where", "motion_score >"], "one SQL condition"),
        (["--min", "motion_scor=1"], "did you mean motion_score"),
        (["--drop-top", "motion_score=110%"], "between 0% and 100%"),
        (["--set", "export.crf=[1"], "not readable as YAML"),
    ],
)
def test_wrong_options_of_select(dataset, tmp_path, options, expected):
    assert expected in refused("select", dataset, "--out", tmp_path / "c", *options)
    assert not (tmp_path / "c").exists()


def test_a_place_that_cannot_be_written(dataset):
    message = refused("select", dataset, "--out", "/proc/x", "--min", "num_frames=20")
    assert message.startswith("winnow: /proc/x")


def test_a_damaged_shard(dataset, tmp_path):
    copy = tmp_path / "copy"
    for table in ("clips", "videos"):
        (copy / table).mkdir(parents=True)
        for part in (dataset / table).glob("part-*.parquet"):
            (copy / table / part.name).write_bytes(part.read_bytes())
    (copy / "dataset.json").write_bytes((dataset / "dataset.json").read_bytes())
    part = next((copy / "clips").glob("part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused("stats", copy)
    assert refused("select", copy, "--out", tmp_path / "c", "--min", "num_frames=20")
    length = pq.ParquetFile(dataset / "clips" / part.name).metadata.serialized_size
    part.write_bytes(
        b"PAR1" + bytes(len(whole) - length - 12) + whole[-length - 8 :]
    )  # the footer is right, no page is
    assert "damaged" in refused("stats", copy)


def test_broken_weights(small_footage, tmp_path):
    (tmp_path / "head.pth").write_bytes(b"not a network")
    aesthetic = f"appearance.aesthetic={{kind: laion, file: {tmp_path / 'head.pth'}}}"
    changes = ["appearance.quality=null", "appearance.nsfw=null", aesthetic]
    options = [item for change in changes for item in ("--set", change)]
    stages = [*INLINE, "--stages", "appearance"]
    message = refused("annotate", small_footage / "film 0.mp4", "--out", tmp_path / "d", *stages, *options)
    assert "aesthetic_score: model laion cannot be loaded: " in message
    # Ray's worker hands the reason on to the driver.
    config = load("quickstart", changes)
    reply = StageWorker("a").start(config.model_dump_json(), ("appearance",), None, (), 64)
    assert isinstance(reply, ExecutorError) and "model laion cannot be loaded" in str(reply)


def test_a_defect_has_a_traceback_and_a_code_of_its_own(dataset, monkeypatch):
    def broken(*_, **__):
        raise IndexError("list index out of range")

    monkeypatch.setattr("pipelines.dataset.statistics.read", broken)
    code, output = winnow("stats", dataset)
    assert code == 3 and "Traceback" in output and "IndexError" in output and "defect" in output


# --- what is counted


def test_the_progress_line_counts_units_and_videos_as_such():
    from rich.console import Console

    live = LiveProgress(Console(quiet=True))
    with live:
        live.planned(3, 900.0, 0)
        for index in range(3):
            live.unit(Report(str(index), "long.mp4", index, 3, status="failed" if index else "ok"))
        line = live.progress.tasks[0].description
    assert line.startswith("3 of 3 units · 1 video ·") and line.endswith("2 units failed")


def test_the_summary_counts_videos_not_their_units(capsys):
    summary = Summary(failed_before=1)
    for path, index in (("a.mp4", 0), ("a.mp4", 1), ("b.mp4", 0)):
        summary.count(Report(path, path, index, 2, status="failed", error="lost"))
    print_summary(Console(), summary, "out")
    printed = " ".join(capsys.readouterr().out.split())
    assert "videos 2" in printed and "failed 2 videos (+ 1 in earlier runs" in printed


@pytest.mark.parametrize(
    "met, code, says",
    [
        (
            StoreError("s3://b/x: cannot be read (503): try again"),
            2,
            "winnow: s3://b/x: cannot be read (503): try again",
        ),
        (KeyboardInterrupt(), 130, "interrupted: what was committed stays"),
    ],
)
def test_what_a_query_meets_in_a_store_is_told_as_what_it_is(tmp_path, monkeypatch, capsys, met, code, says):
    """DuckDB makes an error of its own of it, with a traceback for a message."""
    store = store_of(f"memory://{tmp_path.name}")
    store.put("t.parquet", b"PAR1" * 100)

    def read(*_):
        raise met

    monkeypatch.setattr(type(store), "read", read)
    with pytest.raises(typer.Exit) as ended, errors():
        database().execute(f"SELECT * FROM read_parquet('{readable_by_sql(store.where('t.parquet'))}')")
    said = capsys.readouterr().err
    assert ended.value.exit_code == code and said.startswith(says) and "Traceback" not in said
