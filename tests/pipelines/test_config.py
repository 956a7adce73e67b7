import pytest

from pipelines.config import ConfigError, load
from pipelines.formats.options import size_of


def complaint(tmp_path, text, *overrides):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(path), overrides)
    message = str(caught.value)
    assert "\n" not in message and ("mine.yaml" in message or "--set" in message)
    return message


def test_shipped_configs_load():
    assert load("quickstart").pack == "embedded"
    paper = {(f.kind, f.column): f.amount for f in load("svd").filters}
    assert paper == {
        ("drop_bottom", "motion_score"): 25,
        ("drop_bottom", "aesthetic_score"): 25,
        ("drop_bottom", "similarity_merged"): 50,
        ("drop_top", "text_area"): 25,
    }


def test_without_an_embedder_no_aesthetic_head(tmp_path):
    message = complaint(tmp_path, "embedder: null\nappearance: {aesthetic: {kind: laion}}")
    assert "appearance.aesthetic: needs the embedder" in message
    assert load("quickstart", ["embedder=null"]).embedder is None


def test_sizes():
    assert [size_of(text) for text in ("256MB", "1 GiB", "4096", "1.5kB")] == [256_000_000, 1 << 30, 4096, 1500]
    with pytest.raises(ConfigError, match="256MB"):
        size_of("a lot")


def test_an_unknown_key_names_the_nearest(tmp_path):
    assert "unknown key shots.min_second: did you mean min_seconds?" in complaint(tmp_path, "shots: {min_second: 2}")
    assert "unknown key text.siz: did you mean size?" in complaint(tmp_path, "text: {kind: easyocr, siz: 2}")
    assert "unknown key stils: did you mean stills?" in complaint(tmp_path, "stils: {}")


def test_a_wrong_value_names_key_rule_and_value(tmp_path):
    assert "motion.fps must be greater than 0 (got -2)" in complaint(tmp_path, "motion: {fps: -2}")
    assert "shots.min_seconds must be a valid number" in complaint(tmp_path, "shots: {min_seconds: soon}")
    assert "embedder" in complaint(tmp_path, "embedder: {kind: clop}")
    assert "text_area" in complaint(tmp_path, "selection: {drop_top: {text_area: 100}}")
    assert "drop_botom" in complaint(tmp_path, "selection: {drop_botom: {text_area: 10}}")
    assert "no preset named 'swd'" in complaint(tmp_path, "selection: swd")


def test_broken_yaml_and_missing_files(tmp_path):
    assert "not readable as YAML" in complaint(tmp_path, "shots: [")
    assert "this is a list" in complaint(tmp_path, "- 1")
    with pytest.raises(ConfigError, match=r"not one of the shipped configs .*quickstart.*svd"):
        load("quikstart")


def test_overrides(tmp_path):
    config = load(
        "quickstart",
        ["shots.min_seconds=1.5", "text={kind: rapidocr}", "captions.merge=null", "selection.drop_top.text_area=25%"],
    )
    assert config.shots.min_seconds == 1.5 and config.text.kind == "rapidocr" and config.captions.merge is None
    assert config.filters[-1].amount == 25
    assert "expected KEY=VALUE" in complaint(tmp_path, "", "shots.min_seconds")
    assert "pack is not a section" in complaint(tmp_path, "pack: a", "pack.b=1")


def test_no_yaml_tag_makes_an_object(tmp_path):
    complaint(tmp_path, "pack: !!python/object/apply:os.system ['true']")
