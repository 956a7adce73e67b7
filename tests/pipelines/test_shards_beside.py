"""A dataset that others write beside a reader, or beside the run that holds it: every row counts once, and none of a run that lost it."""

from functools import partial

import pytest

from pipelines.dataset.dataset import DatasetError
from pipelines.dataset.shards import Manifest, compact, open_for_writing
from pipelines.dataset.shards.fence import Fence, write_fence
from tests.pipelines.test_dataset import TABLES, unit
from tests.pipelines.test_shards import Watched, check_crowded, crowded, names, put, rows, store

__all__ = ["store"]


class Listing(Watched):
    """Another process merges the shards in the middle of a listing."""

    def __init__(self, store, number):
        super().__init__(store, lambda name: None)
        self.left = number

    def list(self, prefix=""):
        found = list(self.inner.list(prefix))
        if prefix in ("videos/part-", "clips/part-"):
            self.left -= 1
            if self.left == 0:
                compact(self.inner, run="other")
        return iter(found)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_reader_that_lists_while_shards_are_merged_sees_all(store, caplog, number):
    crowded(store)
    reader = Listing(store, number)
    check_crowded(reader)
    assert reader.left <= 0 and len(names(store, "videos")) == 4 and "do not count" not in caplog.text


def test_nothing_goes_before_all_is_made(store):
    crowded(store)
    changes = []
    compact(Watched(store, changes.append))
    videos = [name for name in changes if name.startswith("videos/")]
    made = [name in names(store, "videos") for name in videos]
    assert any(made) and made == sorted(made, reverse=True)


# --- workers whose driver was taken over


@pytest.mark.parametrize("lost", [False, True])
def test_a_shard_of_a_run_that_was_taken_over_does_not_count(store, lost):
    """Its worker has the old content of a path; the new driver has recorded the new one. lost: the manifest is, too."""
    open_for_writing(store, TABLES, run="one")
    kept = put(store, unit(1), run="one").shard
    open_for_writing(store, TABLES, run="two")
    new, old = unit(7, motion_score=1.0), unit(8, motion_score=2.0)
    old.video.path = new.video.path
    put(store, new, run="two")
    late = put(store, old, run="one").shard
    same = put(store, unit(7, motion_score=1.0), run="one").shard  # what the new run has made, too
    for name in names(store, "manifest") if lost else ():
        store.delete(name)
    expected = [(f"{n:016x}", 0, "ok") for n in (1, 7)]
    assert rows(store)[1] == expected and len(names(store, "videos")) == 4
    Manifest(store).rebuild()
    assert rows(store)[1] == expected
    compact(store, run="two")
    for name in names(store, "manifest") if lost else ():
        store.delete(name)
    assert rows(store)[1] == expected
    left = {name[12:-8] for name in names(store, "videos")}
    assert not {late, same} & left and (len(left) == 1 or kept in left)
    open_for_writing(store, TABLES, run="three")
    assert rows(store)[1] == expected
    with pytest.raises(DatasetError, match="another process has begun to write there"):
        write_fence(store, Fence("two", [], "old"), "two", [])


def test_workers_merge_with_what_can_be_sent_to_them(store):
    """They are given a function of plain values, and texts; in any order."""
    crowded(store)

    def workers(work, packs):
        assert work.args[0] == store.url and isinstance(work, partial)
        return [work(pack) for pack in reversed(list(packs))]

    assert compact(store, map_fn=workers, run="r2").after == 4
    check_crowded(store)
