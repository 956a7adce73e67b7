"""What the driver keeps on disk instead of in memory, and tasks that a thread plans ahead."""

import time

import pytest

from curate.clip import Unit, Video
from pipelines.annotation.planning.feed import AHEAD, AheadFeed
from pipelines.annotation.planning.ledger import COLUMNS, Ledger
from pipelines.annotation.summary import MOST, Summary
from pipelines.annotation.tasks import Report, Task
from pipelines.annotation.workers.worker import work
from tests.pipelines.test_losses import FakeForce, run


def row(video_id, path, unit=0, **values):
    given = {
        "id": f"{video_id}-{unit:04d}",
        "video_id": video_id,
        "video_path": path,
        "unit": unit,
        "kind": "file",
    } | values
    return tuple(given.get(name) for name in COLUMNS)


def test_rows_are_found_by_path_content_and_copy():
    ledger = Ledger()
    assert ledger.empty and ledger.of_path("a") == [] and ledger.row("x-0000") is None
    ledger.load(
        [
            row("ab12", "/a", 1, status="ok", stages="shots,motion", source_list="é", generation=3),
            row("ab12", "/a", 0, status="ok", stages="shots"),
            row("ab13", "/b", status="failed", stages=""),
            row("cd00", "/c", status="duplicate", duplicate_of="/a", stages=""),
            row("ef00", "/d", status="failed", kind="folder", stages=""),
        ]
    )
    assert [found["unit"] for found in ledger.of_path("/a")] == [0, 1]
    second = ledger.of_path("/a")[1]
    assert (second["stages"], second["source_list"], second["generation"]) == (["shots", "motion"], "é", 3)
    ledger.look_up(["/b", "/x", "/a"])  # the same, and nothing for a path that is not recorded
    assert [[found["id"] for found in ledger.of_path(path)] for path in ("/a", "/x")] == [
        ["ab12-0000", "ab12-0001"],
        [],
    ]
    assert [found["id"] for found in ledger.of_path("/c")] == ["cd00-0000"]
    assert [found["id"] for found in ledger.of_content("ab12")] == ["ab12-0000", "ab12-0001"]
    assert ledger.of_content("cd00") == []  # a duplicate has no rows of its own
    assert sorted(ledger.contents_like("ab")) == ["ab12", "ab13"]
    assert ledger.copies("/a") == ["/c"] and [found["id"] for found in ledger.no_files()] == ["ef00-0000"]
    assert list(ledger.paths()) == ["/a", "/b", "/c"] and ledger.count("ok") == 2
    ledger.load([])
    assert ledger.empty and ledger.of_path("/a") == []


def test_the_first_claim_counts_and_what_was_put_off_comes_back_in_order():
    ledger = Ledger()
    assert [ledger.claim("x", path) for path in ("b", "a", "b")] == ["b", "b", "b"]
    for number in range(600):
        ledger.put_off("later", str(number).encode())
        ledger.put_off("other", b"")
    assert [int(data) for data in ledger.taken_up("later")] == list(range(600))
    assert list(ledger.taken_up("later")) == [] and sum(1 for _ in ledger.taken_up("other")) == 600


def test_a_thread_plans_so_far_ahead_and_no_further_and_hands_on_what_goes_wrong():
    planned = []

    def tasks(count, fail=False):
        for number in range(count):
            planned.append(number)
            yield Task(Unit(Video(str(number))))
        if fail:
            raise ValueError("broken list")

    feed = AheadFeed(tasks(AHEAD * 3))
    end = time.monotonic() + 20
    while len(planned) < AHEAD and time.monotonic() < end:
        time.sleep(0.01)
    assert AHEAD <= len(planned) <= AHEAD + 2
    feed.close()
    assert not feed.thread.is_alive()
    feed, force = AheadFeed(tasks(5, fail=True)), FakeForce(lambda *_: None)
    found = []
    with pytest.raises(ValueError, match="broken list"):
        found.extend(run(feed, force))
    assert len(found) <= 5


def test_a_summary_names_the_first_failures_and_counts_all():
    summary = Summary()
    for number in range(3 * MOST):
        summary.count(Report(str(number), f"{number}.mp4", status="failed", error="is empty"))
    assert summary.failed == 3 * MOST and len(summary.failures) == MOST and summary.reasons == {"is empty": 3 * MOST}


def test_a_stage_gets_the_clips_of_several_units_in_one_call_and_one_unit_each_where_that_raises():
    from curate.clip import Clip, Column
    from curate.stages.stage import Stage

    calls = []

    class Counting(Stage):
        name, columns = "counting", (Column("counted", None, ""),)

        def process(self, clips):
            calls.append(len(clips))
            if self.broken and len(clips) > 2:
                raise RuntimeError("too many")
            for clip in clips:
                clip.values["counted"] = None

    clip = dict(start_frame=0, end_frame=9, start_time=0, end_time=1, shot_start_time=0, shot_end_time=1)
    for broken, expected in ((False, [6]), (True, [6, 2, 2, 2])):
        calls.clear()
        stage = Counting()
        stage.broken = broken
        units = [Unit(Video(name), clips=[Clip(**clip) for _ in range(2)]) for name in "abc"]
        assert all(not clip.errors for unit in work(units, [stage]) for clip in unit.clips)
        assert calls == expected and all("counting" in unit.seconds for unit in units)
