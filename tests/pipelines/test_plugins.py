"""Parts of a user's own: the examples of the documentation, as they are written there."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from curate.clip import Unit
from curate.parts import Parts, PluginError
from pipelines.annotation.annotate import annotate
from pipelines.annotation.planning.recorded import RecordedUnits
from pipelines.annotation.pools import Place, pools_of
from pipelines.annotation.stages import StageError, build, prefilter_columns, stage_identity, tables_of, with_needs
from pipelines.annotation.workers.worker import work as run_steps
from pipelines.config import ConfigError, load
from pipelines.dataset.dataset import Dataset, DatasetError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SHARPNESS, BRIGHTNESS, HUE = (str(EXAMPLES / f"{name}.py") for name in ("sharpness", "brightness", "hue_captions"))


def rows(root, columns):
    return duckdb.sql(f"SELECT {columns} FROM {Dataset(root).clips_sql} ORDER BY clip_id").fetchall()


def work(footage, out, watcher, stages, *plugins, place="inline", overrides=()):
    config = load("quickstart", list(overrides), plugins)
    return annotate([str(footage)], out, config, place=Place(place, workers=1), watcher=watcher, stages=stages)


def test_a_score_and_an_observer_of_ones_own_become_columns(small_footage, tmp_path, watcher):
    work(small_footage, tmp_path / "d", watcher, ["sharpness", "brightness"], SHARPNESS, BRIGHTNESS)
    found = rows(tmp_path / "d", "sharpness, brightness")
    assert found and all(sharp > 0 and 0 < bright < 255 for sharp, bright in found)
    field = Dataset(tmp_path / "d").schema("clips").field("sharpness")
    assert field.metadata[b"formula"].startswith(b"variance of the Laplacian")
    about = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert [Path(plugin["source"]).name for plugin in about["plugins"]] == ["sharpness.py", "brightness.py"]
    assert all(len(plugin["sha256"]) == 64 for plugin in about["plugins"])

    # a later job without the plugins adds a stage: what they found stays, and nothing is decoded again
    decoded = duckdb.sql(f"SELECT sum(frames_decoded) FROM {Dataset(tmp_path / 'd').videos_sql}").fetchall()
    work(small_footage, tmp_path / "d", watcher, ["text"], overrides=["text={kind: rapidocr}"])
    assert rows(tmp_path / "d", "sharpness, brightness") == found
    assert rows(tmp_path / "d", "text_area")[0][0] is not None
    assert duckdb.sql(f"SELECT sum(frames_decoded) FROM {Dataset(tmp_path / 'd').videos_sql}").fetchall() == decoded
    shards = {stage for shard in Dataset(tmp_path / "d").shards.values() for stage in shard.stages.split(",")}
    assert {"sharpness", "brightness", "text"} <= shards


def test_the_same_rows_on_ray(small_footage, tmp_path, watcher):
    for place in ("inline", "ray"):
        work(small_footage, tmp_path / place, watcher, ["sharpness", "brightness"], SHARPNESS, BRIGHTNESS, place=place)
    columns = "clip_id, sharpness, brightness"
    assert rows(tmp_path / "ray", columns) == rows(tmp_path / "inline", columns) != []


def test_a_model_of_ones_own_is_chosen_by_its_kind(small_footage, tmp_path, watcher):
    overrides = ["captions={frame: null, video: {kind: hue, word: rather}, merge: null}"]
    work(small_footage, tmp_path / "d", watcher, ["captions"], HUE, overrides=overrides)
    said = {caption for (caption,) in rows(tmp_path / "d", "caption_video")}
    assert said <= {f"A clip, rather {colour}." for colour in ("red", "green", "blue")} and said
    assert Dataset(tmp_path / "d").models["caption_video"]["kind"] == "hue"
    with pytest.raises(ConfigError, match=r"captions\.video"):
        load("quickstart", overrides)


def test_everything_is_derived_from_what_a_part_declares():
    config = load("quickstart", ["brightness.every=2", "prefilter.min.sharpness=100"], [SHARPNESS, BRIGHTNESS])
    names = list(config.parts.stages)
    assert names.index("stills") < names.index("brightness") < names.index("sharpness") < names.index("text")
    assert with_needs(["sharpness"], config) == ("shots", "stills", "sharpness")
    assert with_needs(["captions"], config) == ("shots", "motion", "stills", "sharpness", "captions")
    assert {"sharpness", "brightness"} <= set(prefilter_columns(config.parts))
    assert (
        stage_identity(config, "brightness") == {"brightness": {"every": 2}}
        and stage_identity(config, "sharpness") == {}
    )
    scores = [column.name for column in tables_of(config.parts).scores]
    assert scores[-2:] == ["sharpness", "brightness"] and scores[:-2] == [c.name for c in tables_of(Parts()).scores]
    assert [pool.stages for pool in pools_of(config, with_needs(["sharpness"], config))] == [
        ("shots", "stills", "sharpness")
    ]
    with pytest.raises(ConfigError, match=r"brightness.every must be greater than or equal to 1"):
        load("quickstart", ["brightness.every=0"], [BRIGHTNESS])
    with pytest.raises(ConfigError, match="unknown key brightness"):
        load("quickstart", ["brightness.every=2"])


def test_a_config_may_name_plugins_beside_it(tmp_path):
    (tmp_path / "mine.py").write_text(Path(SHARPNESS).read_text())
    (tmp_path / "mine.yaml").write_text("plugins: [mine.py]\n")
    config = load(str(tmp_path / "mine.yaml"))
    assert "sharpness" in config.parts.stages and config.plugins == [str(tmp_path / "mine.py")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no list PARTS: end the file with PARTS"),
        ("import nothing_of_the_kind", "cannot be imported: ModuleNotFoundError"),
        ("PARTS = [1]", "PARTS holds 1, which is no part"),
        ("from curate.plugin import Stage\nclass A(Stage): name = 'text'\nPARTS = [A]", "there is a stage named text"),
        ("from curate.plugin import Stage\nclass A(Stage): pass\nPARTS = [A]", "A: has no name"),
        (
            "from curate.plugin import Stage\nclass A(Stage):\n    name, needs = 'a', ('b',)\nPARTS = [A]",
            "needs b, which is no stage: choose from shots",
        ),
        (
            "from curate.plugin import Column, Stage, types\nclass A(Stage):\n    name = 'a'\n"
            "    columns = (Column('text_area', types.float32(), ''),)\nPARTS = [A]",
            "the column text_area is that of text",
        ),
    ],
)
def test_a_plugin_that_cannot_be_used_says_why(tmp_path, text, problem):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(PluginError, match=problem) as caught:
        Parts.load([str(tmp_path / "mine.py")])
    assert "mine.py" in str(caught.value)


def test_on_the_command_line_a_plugin_that_is_not_there_is_one_line(tmp_path):
    command = [sys.executable, "-m", "pipelines.cli", "annotate", str(tmp_path), "--out", str(tmp_path / "d")]
    done = subprocess.run([*command, "--plugin", "gone.py"], capture_output=True, text=True)
    assert done.returncode == 2 and "gone.py: no such file: give the path" in done.stderr


def test_a_plugin_stage_that_fails_costs_its_own_column(small_footage, tmp_path, watcher):
    (tmp_path / "broken.py").write_text(
        "from curate.plugin import Column, Stage, types\n"
        "class Broken(Stage):\n"
        "    name, needs, columns = 'broken', ('stills',), (Column('broken', types.float32(), 'none'),)\n"
        "    def process(self, clips):\n        raise RuntimeError('no luck')\n"
        "PARTS = [Broken]\n"
    )
    work(small_footage, tmp_path / "d", watcher, ["broken", "motion"], str(tmp_path / "broken.py"))
    found = rows(tmp_path / "d", "broken, errors['broken'], still_first IS NOT NULL")
    assert found and set(found) == {(None, "RuntimeError: no luck", True)}


def test_a_dataset_never_runs_the_plugins_that_it_names(small_footage, tmp_path, watcher):
    work(small_footage, tmp_path / "d", watcher, ["sharpness"], SHARPNESS)
    about = json.loads((tmp_path / "d" / "dataset.json").read_text())
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nPARTS = []\n")
    about["config"]["plugins"] = [str(trap)]
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(about))
    for command in (["stats"], ["select", "--min", "sharpness=0", "--out", str(tmp_path / "c")]):
        line = [sys.executable, "-m", "pipelines.cli", command[0], str(tmp_path / "d"), *command[1:]]
        assert subprocess.run(line, capture_output=True).returncode == 0
    work(small_footage, tmp_path / "d", watcher, ["motion"])
    assert not (tmp_path / "sprung").exists()
    kept = duckdb.sql(f"SELECT sharpness FROM read_parquet('{tmp_path}/c/data/*.parquet')").fetchall()
    assert np.isfinite([score for (score,) in kept]).all() and kept


def test_a_format_and_a_preset_of_ones_own_on_the_command_line(small_footage, tmp_path, watcher):
    work(small_footage, tmp_path / "d", watcher, ["captions", "text"], overrides=["text={kind: rapidocr}"])
    command = [sys.executable, "-m", "pipelines.cli", "select", str(tmp_path / "d"), "--out", str(tmp_path / "c")]
    plugins = [f"--plugin={EXAMPLES / 'pairs_format.py'}", f"--plugin={EXAMPLES / 'calm_preset.py'}"]
    done = subprocess.run([*command, *plugins, "--format", "pairs", "--preset", "calm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calm = rows(tmp_path / "d", "clip_id, motion_score <= 20 AND text_area <= 0.01, caption_merged")
    written = {path.stem: path.read_text() for path in (tmp_path / "c" / "data").glob("*/*.txt")}
    assert written == {clip: caption or "" for clip, kept, caption in calm if kept} and written
    assert {path.stem for path in (tmp_path / "c" / "data").glob("*/*.mp4")} == set(written)
    refused = subprocess.run([*command, "--preset", "calm"], capture_output=True, text=True)
    assert refused.returncode == 2 and "no preset named 'calm'; there are none, svd, svd-final" in refused.stderr


def test_a_panel_of_ones_own_is_on_the_page(small_footage, tmp_path, watcher):
    from fastapi.testclient import TestClient

    from pipelines.inspector.data.session import Session
    from pipelines.inspector.panel import Panel
    from pipelines.inspector.panels import PANELS
    from pipelines.inspector.server.app import make_app

    work(small_footage, tmp_path / "d", watcher, ["sharpness"], SHARPNESS)
    panels = [*PANELS, *Parts.load([str(EXAMPLES / "longest_panel.py")]).of(Panel)]
    session = Session(tmp_path / "d", tmp_path / "cache")
    session.load()
    app = make_app(session, hosts={"testserver"}, panels=panels)
    client = TestClient(app)
    clips = [clip for (clip,) in rows(tmp_path / "d", "clip_id")]
    assert sorted(client.get("/api/longest").json()) == clips
    assert "Longest clips" in client.get("/").text


MISTAKES = """
from curate.plugin import Column, Observer, Stage, types
class Wrong(Stage):
    name, needs = "wrong", ("shots",)
    columns = tuple(Column(n, types.float32(), "") for n in ("text_in_number", "nan", "forgotten", "right"))
    def process(self, clips):
        for clip in clips:
            clip.values |= {"text_in_number": "a", "nan": float("nan"), "right": 1.0}
class Chokes(Observer):
    name, needs, columns = "chokes", ("shots",), (Column("choked", types.int32(), ""),)
    def see(self, frame):
        if frame.index == 5: raise RuntimeError("no luck")
class Late(Observer):
    name, needs, columns = "late", ("shots",), (Column("late_score", types.int32(), ""),)
    def see(self, frame): pass
    def finish(self, unit, timeline): raise KeyError("end")
PARTS = [Wrong, Chokes, Late]
"""


def test_the_mistakes_of_a_part_cost_its_own_columns_and_are_recorded(small_footage, tmp_path, watcher):
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    stages = ["wrong", "chokes", "late", "motion"]
    work(small_footage, tmp_path / "d", watcher, stages, str(tmp_path / "mistakes.py"))
    found = rows(tmp_path / "d", 'text_in_number, nan, forgotten, "right", choked, late_score, motion_score > 0')
    assert found and set(found) == {(None, None, None, 1.0, None, None, True)}
    reasons = rows(tmp_path / "d", "errors['wrong'], errors['chokes'], errors['late'], errors['motion']")
    assert {row[1:] for row in reasons} == {("RuntimeError: no luck", "KeyError: 'end'", None)}
    assert all(row[0].startswith("text_in_number: 'a' is no float") for row in reasons)


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ("name = 'decode'", "the name 'decode' is a section of the config"),
        ("name = 'embedder'", "the name 'embedder' is a section of the config"),
        ("name = 'my score'", "the name 'my score' has other signs"),
        ("name, columns = 'a', (Column('fps', types.float32(), ''),)", "the column fps is in every table already"),
        ("name, columns = 'a', (Column('hdr', types.float32(), ''),)", "the column hdr is in every table already"),
    ],
)
def test_names_that_are_taken(tmp_path, declared, problem):
    text = f"from curate.plugin import Column, Stage, types\nclass A(Stage):\n    {declared}\nPARTS = [A]\n"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(PluginError, match=problem):
        load("quickstart", plugins=[str(tmp_path / "mine.py")])


def test_two_sizes_of_one_view_are_refused_before_any_work(small_footage, tmp_path, watcher):
    (tmp_path / "mine.py").write_text(
        "from curate.plugin import Observer\nclass Mine(Observer):\n    name, needs = 'mine', ('shots',)\n"
        "    @classmethod\n    def views(cls, options): return {'grey': 128}\nPARTS = [Mine]\n"
    )
    with pytest.raises(StageError, match="motion looks at grey of 96 px and mine of 128 px: give both one size"):
        work(small_footage, tmp_path / "d", watcher, ["mine", "motion"], str(tmp_path / "mine.py"))
    assert not (tmp_path / "d").exists()


def test_a_plugin_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("FORMULA = 'none'\n")
    (tmp_path / "mine.py").write_text(
        "from beside_it import FORMULA\nfrom curate.plugin import Column, Stage, types\n"
        "class Mine(Stage):\n    name, columns = 'mine', (Column('mine', types.float32(), FORMULA),)\nPARTS = [Mine]\n"
    )
    assert Parts.load([str(tmp_path / "mine.py")]).stages["mine"].columns[0].formula == "none"


def test_a_kind_that_is_taken(tmp_path):
    text = Path(HUE).read_text().replace('Literal["hue"] = "hue"', 'Literal["facts"] = "facts"')
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(PluginError, match="two models have the kind 'facts'"):
        Parts.load([str(tmp_path / "mine.py")])


def test_a_dataset_that_names_a_model_and_a_preset_of_a_plugin_is_read_without_it(small_footage, tmp_path, watcher):
    overrides = ["captions={frame: null, video: {kind: hue}, merge: null}", "selection=calm"]
    config = load("quickstart", overrides, [HUE, str(EXAMPLES / "calm_preset.py")])
    annotate([str(small_footage)], tmp_path / "d", config, place=Place(), watcher=watcher, stages=["captions"])
    for command in (["stats"], ["select", "--preset", "none", "--out", str(tmp_path / "c")]):
        line = [sys.executable, "-m", "pipelines.cli", command[0], str(tmp_path / "d"), *command[1:]]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_what_changes_under_a_plugin(small_footage, tmp_path, watcher, caplog):
    plugin = tmp_path / "mine.py"
    plugin.write_text(Path(SHARPNESS).read_text())
    work(small_footage, tmp_path / "d", watcher, ["sharpness"], str(plugin))
    plugin.write_text(Path(SHARPNESS).read_text() + "# another formula\n")
    work(small_footage, tmp_path / "d", watcher, ["sharpness"], str(plugin))
    assert "mine.py has changed since rows" in caplog.text
    hashes = [found["sha256"] for found in json.loads((tmp_path / "d" / "dataset.json").read_text())["plugins"]]
    assert len(set(hashes)) == 2
    plugin.write_text(Path(SHARPNESS).read_text().replace('name = "sharpness"', 'name, version = "sharpness", 2'))
    with pytest.raises(DatasetError, match="its sharpness is of version 1, the plugin's of 2"):
        work(small_footage, tmp_path / "d", watcher, ["sharpness"], str(plugin))
    plugin.write_text(Path(SHARPNESS).read_text().replace("types.float32()", "types.string()"))
    with pytest.raises(DatasetError, match="its column sharpness is float, the plugin's is string"):
        work(small_footage, tmp_path / "d", watcher, ["sharpness"], str(plugin))


def test_a_resumed_unit_keeps_what_an_earlier_pool_computed(small_footage, tmp_path, watcher):
    """Two pools, one after the other, as on a machine with GPUs: the stored rows are read in the first only."""
    work(small_footage, tmp_path / "d", watcher, ["stills"])
    config = load("quickstart", [], [SHARPNESS, BRIGHTNESS])
    known = RecordedUnits(Dataset(tmp_path / "d"), ["sharpness", "brightness"], False, config.parts)
    (unit, *_) = known.incomplete(next(known.videos()))
    for stages in (["sharpness"], ["brightness"]):
        (unit,) = run_steps([Unit.unpack(unit.pack())], build(config, stages))
    assert all(clip.values["sharpness"] > 0 and clip.values["brightness"] > 0 for clip in unit.clips) and unit.clips


def test_a_prefiltered_stage_of_a_plugin_leaves_the_prefilters_scores_alone(tmp_path):
    text = Path(SHARPNESS).read_text().replace('name = "sharpness"', 'name, prefiltered = "sharpness", True')
    (tmp_path / "mine.py").write_text(text)
    config = load("quickstart", ["prefilter.max.text_area=0.1"], [str(tmp_path / "mine.py")])
    assert with_needs(["sharpness"], config) == ("shots", "stills", "text", "sharpness")


def test_an_observer_alone_still_has_clips(small_footage, tmp_path, watcher):
    text = Path(BRIGHTNESS).read_text().replace('    needs = ("shots",)\n', "")
    (tmp_path / "mine.py").write_text(text)
    work(small_footage, tmp_path / "d", watcher, ["brightness"], str(tmp_path / "mine.py"))
    assert rows(tmp_path / "d", "brightness > 0") == [(True,)] * 6
    (tmp_path / "late.py").write_text(text.replace("    Options =", '    needs = ("text",)\n    Options ='))
    with pytest.raises(PluginError, match="needs text, which runs after the decode: make it a Stage"):
        Parts.load([str(tmp_path / "late.py")])


def test_a_captioner_gets_the_frames_that_it_declares(small_footage, tmp_path, watcher):
    text = Path(HUE).read_text().replace("frames = 0", "frames = 3")
    (tmp_path / "mine.py").write_text(text.replace('return [f"A clip', 'return [f"{len(clips[0].frames)} frames, clip'))
    overrides = ["captions={frame: null, video: {kind: hue}, merge: null}"]
    work(small_footage, tmp_path / "d", watcher, ["captions"], str(tmp_path / "mine.py"), overrides=overrides)
    assert {caption[:8] for (caption,) in rows(tmp_path / "d", "caption_video")} == {"3 frames"}
