"""Columns that Winnow has never heard of, as a user's stage writes them: everything the page shows of them comes from what
their fields in the shards declare."""

import shlex

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from curate.clip import Column
from curate.selection.filters import Filter
from curate.selection.selection import select
from pipelines.annotation.stages import TABLES
from pipelines.cli.app import app
from pipelines.dataset.dataset import Dataset, Writer
from pipelines.dataset.tables import Tables
from pipelines.inspector.report.report import write_report
from tests.pipelines.inspector import data
from tests.pipelines.inspector.conftest import serving

SHARPNESS = Column("sharpness", pa.float32(), "variance of the Laplacian", "grey levels²", "0..", "Pech-Pacheco 2000")
FACES = Column("faces seen", pa.int16(), "most faces in one still", "", "0..", "")
MOOD = Column("mood", pa.string(), "by the colours", "", "warm, cold", "")
HUM = (
    Column("hum_times", pa.list_(pa.float64()), "presentation times", "s"),
    Column("hum_samples", pa.list_(pa.float64()), "loudness below 100 Hz", "dB"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Sharpness of clip i of video v is 10v + i; null for the last clip of each."""
    folder = tmp_path_factory.mktemp("unknown")
    root = data.make(folder / "annotated", videos=0)
    writer = Writer(
        root, Tables(scores=(*TABLES.scores, SHARPNESS, FACES, MOOD), facts=(*TABLES.facts, *HUM)), models={}
    )
    for number in range(3):
        unit = data.unit(root, number)
        for i, clip in enumerate(unit.clips):
            clip.values |= {"sharpness": None if i == 4 else 10.0 * number + i, "faces seen": i, "mood": "warm"}
        unit.facts |= {"hum_times": [1.0, 2.0], "hum_samples": [-3.0, 40.0]}
        writer.add(unit, stages=["shots", "sharpness"])
    writer.flush()
    with serving(root, folder / "cache") as server:
        yield folder, server


def test_notes_thresholds_and_order(place):
    folder, server = place
    scores = {score["name"]: score for score in server.get("/api/start")["scores"]}
    sharp = scores["sharpness"]
    assert (sharp["unit"], sharp["range"]) == ("grey levels²", "0..")
    assert (sharp["formula"], sharp["source"]) == ("variance of the Laplacian", "Pech-Pacheco 2000")
    assert (sharp["min"], sharp["max"], sharp["nulls"]) == (0.0, 23.0, 3)
    assert scores["faces seen"]["whole"] and scores["faces seen"]["counts"] == [3] * 5
    asked = {"filters": [{"kind": "min", "column": "sharpness", "amount": 12}], "histograms": ["sharpness"]}
    view = server.post("/api/view", {**asked, "page": {"sort": "sharpness", "descending": True}})
    kept = select(Dataset(folder / "annotated").clips_sql, [Filter("min", "sharpness", 12)]).kept_ids().to_pylist()
    assert view["clips"] == len(kept) == 6 and sum(view["histograms"]["sharpness"]) == 6
    assert [row["value"] for row in view["grid"]["rows"]] == [23, 22, 21, 20, 13, 12]
    report = write_report(folder / "annotated", folder / "report.html").read_text()
    assert "sharpness <i>grey levels² · 3 null</i>" in report and "variance of the Laplacian" in report


def test_one_clip_and_its_film(place):
    _, server = place
    clip = server.post("/api/clip", {"clip": data.clip_id(2, 3)})
    sharp = next(score for score in clip["scores"] if score["name"] == "sharpness")
    assert (sharp["value"], sharp["standing"], sharp["unit"]) == (23.0, 11.5 / 12, "grey levels²")
    assert [(other["name"], other["value"], other["range"]) for other in clip["others"]] == [
        ("mood", "warm", "warm, cold")
    ]
    lanes = server.post("/api/film", {"clip": data.clip_id(2, 3)})["lanes"]
    assert [lane["name"] for lane in lanes] == ["hum", "motion"]
    assert (lanes[0]["times"], lanes[0]["values"], lanes[0]["unit"]) == ([1.0, 2.0], [-3.0, 40.0], "dB")


def test_on_the_page(place, browser):
    folder, server = place
    page = browser.new_page()
    page.goto(server.address)
    card = page.locator('.histogram[data-score="sharpness"]')
    card.scroll_into_view_if_needed()
    assert "grey levels² · 3 null" in card.locator("h3").inner_text()
    note = card.locator("h3").get_attribute("title")
    assert note == "variance of the Laplacian\nrange 0..\nPech-Pacheco 2000"
    page.get_by_role("button", name="clear").click()
    card.locator(".handle.low .grip").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("12")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#clips-kept').dataset.count === '6'")
    page.select_option("#sort", "sharpness")
    page.wait_for_function("() => document.querySelector('.tile .value').textContent === '12'")
    page.locator(".tile").first.click()
    page.wait_for_selector('#clip [data-lane="hum"] polyline')
    text = page.locator("#clip").inner_text()
    assert "sharpness" in text and "grey levels²" in text and "mood" in text and "warm" in text
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    words = shlex.split(page.locator("#command").inner_text())
    assert words[-2:] == ["--min", "sharpness=12"]
    done = CliRunner().invoke(app, [*words[1:4], str(folder / "sharp"), *words[5:]])
    assert done.exit_code == 0 and done.output.count("6 clips")
    page.close()
