"""A format is one object in one file and one entry of the list: shards, resuming, card and config come by themselves."""

import json
import shutil
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from curate.base.section import Section
from pipelines.cli.app import app
from pipelines.config import ConfigError, load_recorded
from pipelines.curated.curated import CuratedError
from pipelines.dataset import statistics
from pipelines.formats.format import Format, ShardFile
from pipelines.formats.formats import FORMATS
from pipelines.formats.options import Export, export_section
from pipelines.typed_yaml import validate
from tests.pipelines.test_curated import FILTERS, curate, make_dataset, map_here, no_pictures  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_pictures")


class PairsOptions(Section):
    prefix: str = ""


class Pairs(Format):
    """An mp4 and a txt for each clip, a folder a shard."""

    name = "pairs"
    description = "a folder a shard, an mp4 and a txt for each clip"
    needs = ("caption_merged", "still_first")
    Options = PairsOptions

    def open(self, path, schema):
        return PairsShard(path, self.options.prefix)

    def loading(self):
        return "Read `data/*/CLIP.mp4` and the caption beside it.\n"


class PairsShard(ShardFile):
    def __init__(self, path, prefix):
        self.path, self.prefix = path, prefix
        path.mkdir()

    def add(self, row, clip):
        (self.path / f"{row['clip_id']}.mp4").write_bytes(clip)
        (self.path / f"{row['clip_id']}.txt").write_text(self.prefix + row["caption_merged"])
        (self.path / f"{row['clip_id']}.jpg").write_bytes(row["still_first"])


class Lines(Format):
    """Rows as JSON, without the clips' bytes; the counts are the last line."""

    name, suffix = "lines", ".jsonl"

    def open(self, path, schema):
        return LinesShard(path, schema.names)

    def footer(self, shard):
        return json.loads(shard.read().splitlines()[-1])


class LinesShard(ShardFile):
    def __init__(self, path, names):
        self.stream, self.names = open(path, "w"), names  # noqa: SIM115

    def add(self, row, clip):
        assert list(row) == self.names
        self.stream.write(json.dumps({"clip_id": row["clip_id"], "bytes": len(clip), "cut": row["cut"]}) + "\n")

    def finish(self, footer):
        self.stream.write(json.dumps(footer) + "\n")
        self.stream.close()

    def abandon(self):
        self.stream.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("formats") / "annotated", videos=2)


class Stop(Exception):
    pass


def files(out):
    data = out / "data"
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", [*FORMATS, Pairs, Lines], ids=lambda kind: kind.name)
def test_interrupted_it_is_resumed_after_the_last_whole_shard(dataset, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("pipelines.curated.plan.planned.SAMPLE_CLIPS", 2)
    whole = curate(dataset, FILTERS, tmp_path / "whole", shard_bytes=10_000, map_fn=map_here, format=kind())
    assert whole.shards > 2 and files(tmp_path / "whole")

    def stopping(jobs):
        for job in jobs:
            if shards := [path for path in (out / ".partial" / "data").iterdir() if path.suffix != ".tmp"]:
                assert len(shards) < whole.shards
                raise Stop
            yield from map_here([job])

    out = tmp_path / "out"
    with pytest.raises(Stop):
        curate(dataset, FILTERS, out, shard_bytes=10_000, map_fn=stopping, format=kind())
    done = {path.name for path in (out / ".partial" / "data").iterdir()}
    assert 0 < len(done) < whole.shards and not [name for name in done if name.endswith(".tmp")]
    half_written = out / ".partial" / "data" / "train-00009-of-00010.tmp"  # as a kill leaves it
    half_written.mkdir() if kind is Pairs else half_written.write_text("half")
    cut = []

    def counting(jobs):
        for job in jobs:
            cut.append(job.clip_id)
            yield from map_here([job])

    made = curate(dataset, FILTERS, out, shard_bytes=10_000, map_fn=counting, format=kind())
    assert len(cut) < made.clips  # those of the whole shards were not cut again
    assert files(out) == files(tmp_path / "whole")
    names = ("clips", "hours", "bytes", "shards", "copied", "frames_scored")
    assert [getattr(made, name) for name in names] == [getattr(whole, name) for name in names]
    assert not (out / ".partial").exists()


def test_a_folder_of_pairs(dataset, tmp_path):
    made = curate(dataset, [], tmp_path / "out", map_fn=map_here, format=Pairs(PairsOptions(prefix="A film: ")))
    (shard,) = (tmp_path / "out" / "data").iterdir()
    assert shard.name == "train-00000-of-00001" and len(list(shard.iterdir())) == 3 * made.clips
    for path in shard.glob("*.mp4"):
        with av.open(str(path)) as clip:
            assert len(list(clip.decode(video=0))) == 12
        assert path.with_suffix(".txt").read_text().startswith("A film: clip ")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Read `data/*/CLIP.mp4`" in card and "load_dataset" not in card and "data_files" not in card
    found = statistics.read(tmp_path / "out")
    assert (found.kind, found.clips, found.scores) == ("curated", made.clips, [])
    assert "| `caption_merged` |" in card and "| `cut` |" in card and "| `video` |" not in card


def test_what_a_format_needs_is_asked_before_work(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Pairs, "needs", ("caption_merged", "depth"))
    with pytest.raises(CuratedError, match=r"export\.format pairs needs depth, which the dataset does not have"):
        curate(dataset, [], tmp_path / "out", map_fn=map_here, format=Pairs())
    assert not (tmp_path / "out").exists()


def test_another_format_is_another_dataset(dataset, tmp_path):
    out = tmp_path / "out"
    curate(dataset, FILTERS, out, map_fn=map_here)
    with pytest.raises(CuratedError, match=r"another selection \(different: format\)"):
        curate(dataset, FILTERS, out, map_fn=map_here, format=Lines())
    shutil.rmtree(out)
    curate(dataset, FILTERS, out, map_fn=map_here, format=Pairs())
    assert curate(dataset, FILTERS, out, map_fn=map_here, format=Pairs()).already
    with pytest.raises(CuratedError, match="different: format"):
        curate(dataset, FILTERS, out, map_fn=map_here)
    with pytest.raises(CuratedError, match="different: format"):
        curate(dataset, FILTERS, out, map_fn=map_here, format=Pairs(PairsOptions(prefix="x")))


def test_the_config_has_what_the_list_has():
    section = export_section([*FORMATS, Pairs, Lines])
    assert type(section().chosen) is FORMATS[0] and section().format == "parquet"
    chosen = section(format="pairs", pairs={"prefix": "a"}).chosen
    assert type(chosen) is Pairs and chosen.options.prefix == "a"
    assert type(section(format="lines").chosen) is Lines
    with pytest.raises(ConfigError, match=r"format must be 'parquet', 'pairs' or 'lines' \(got 'tar'\)"):
        validate(section, {"format": "tar"}, "a.yaml")
    with pytest.raises(ConfigError, match=r"unknown key pairs\.prefx: did you mean prefix"):
        validate(section, {"pairs": {"prefx": "a"}}, "a.yaml")
    assert Export().model_dump()["format"] == "parquet"


def test_the_command_line_names_the_choices(dataset, tmp_path):
    command = ["select", str(dataset.root), "--out", str(tmp_path / "out"), "--preset", "none", "--format"]
    refused = CliRunner().invoke(app, [*command, "tar"])
    assert refused.exit_code == 2 and not (tmp_path / "out").exists()
    assert "the command line: export.format must be 'parquet' (got 'tar')" in refused.output
    made = CliRunner().invoke(app, [*command, "parquet"])
    assert made.exit_code == 0 and "format" not in json.loads((tmp_path / "out/selection.json").read_text())["request"]


def test_a_format_of_a_plugin_as_the_documentation_has_it(dataset, tmp_path):
    plugin, out = Path(__file__).parents[2] / "docs" / "examples" / "pairs_format.py", tmp_path / "out"
    command = ["select", str(dataset.root), "--out", str(out), "--preset", "none", "--format", "pairs"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "export.format must be 'parquet'" in refused.output
    command += ["--plugin", str(plugin), "--set", 'export.pairs.prefix="A film of "']
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    (shard,) = (out / "data").iterdir()
    texts = [path.read_text() for path in shard.glob("*.txt")]
    assert len(texts) == len(list(shard.glob("*.mp4"))) == 20
    assert sorted(texts)[0] == "A film of clip 0"
    assert CliRunner().invoke(app, command).exit_code == 0  # done already


def test_a_dataset_whose_config_names_a_format_that_is_not_there_is_read():
    assert load_recorded({"export": {"format": "ids", "ids": {"a": 1}, "crf": 20}}, "dataset.json").export.crf == 20
