"""Large files that agree in all that a fingerprint looks at: edited in place between the samples, with size kept."""

import os
import shutil

import pytest

from curate.video.identity import SAMPLED, checksum, fingerprint, identify
from pipelines.curated.curated import CuratedError
from pipelines.dataset.dataset import Dataset
from tests.pipelines.test_annotate import job, rows
from tests.pipelines.test_curated import curate, map_here

BETWEEN = 200_000  # a byte that no sample holds


@pytest.fixture
def film(tmp_path):
    """Raw video of 4.6 MB: 40 times the same picture of 320 x 240."""
    path = tmp_path / "films" / "a.y4m"
    path.parent.mkdir()
    picture = b"FRAME\n" + bytes(range(16, 176)) * (2 * 240) + bytes([128]) * (320 * 240 // 2)
    path.write_bytes(b"YUV4MPEG2 W320 H240 F25:1 Ip A1:1 C420jpeg\n" + picture * 40)
    assert path.stat().st_size > SAMPLED
    return path


def edit(path, value=200):
    """As an editor of raw video does: the second picture, in place."""
    before = fingerprint(str(path))
    with open(path, "r+b") as stream:
        stream.seek(BETWEEN)
        stream.write(bytes([value]) * 500)
    assert fingerprint(str(path)) == before


def videos(out):
    return rows(out, "parse_filename(video_path), video_id, status, checksum", "videos")


def test_an_edit_between_the_samples_is_a_change(film, tmp_path, watcher):
    out, content = tmp_path / "d", fingerprint(str(film))
    job(film, out, watcher)
    assert videos(out) == [("a.y4m", content, "ok", checksum(str(film)))]
    edit(film)
    assert job(film, out, watcher).changed == 1
    ((_, second, _, whole),) = videos(out)
    assert second != content and whole == checksum(str(film))
    assert {clip_id[:32] for (clip_id,) in rows(out, "clip_id")} == {second}
    assert job(film, out, watcher).nothing_to_do  # nothing is read
    os.utime(film)
    assert job(film, out, watcher).changed == 0 and videos(out)[0][1:] == (second, "ok", whole)
    edit(film, 30)
    assert job(film, out, watcher).changed == 1 and videos(out)[0][1] not in (content, second)


def test_a_time_of_writing_alone_is_no_change(film, tmp_path, watcher, monkeypatch):
    out = tmp_path / "d"
    job(film, out, watcher)
    os.utime(film, ns=(10**18, 10**18))
    summary = job(film, out, watcher)
    assert (summary.changed, summary.videos) == (0, 0) and rows(out, "modified", "videos") == [(10**18,)]
    read = []
    monkeypatch.setattr("pipelines.annotation.planning.planner.checksum", read.append)
    monkeypatch.setattr(
        "pipelines.annotation.planning.planner.identify", lambda path: read.append(path) or identify(path)
    )
    assert job(film, out, watcher).nothing_to_do and read == []


@pytest.mark.parametrize("runs", [1, 2])
def test_two_that_differ_between_the_samples_are_two_videos_and_copies_of_each_are_copies(
    film, tmp_path, watcher, runs
):
    folder, out = film.parent, tmp_path / "d"
    shutil.copy(film, folder / "b.y4m")
    edit(folder / "b.y4m")
    if runs == 2:
        job(film, out, watcher)
    for name in "ab":
        shutil.copy(folder / f"{name}.y4m", folder / f"{name}2.y4m")
    job(folder, out, watcher)
    found = {name: (status, whole and checksum(str(folder / name)) == whole) for name, _, status, whole in videos(out)}
    assert {name: status for name, (status, _) in found.items()} == {
        "a.y4m": "ok",
        "b.y4m": "ok",
        "a2.y4m": "duplicate",
        "b2.y4m": "duplicate",
    }
    assert found["a.y4m"][1] and found["b.y4m"][1]
    assert rows(out, "parse_filename(error)", "videos") == [(None,), ("a.y4m",), (None,), ("b.y4m",)]
    assert len({video_id for name, video_id, *_ in videos(out)}) == 4
    assert job(folder, out, watcher).nothing_to_do


def test_another_film_with_the_same_samples_does_not_take_the_rows_of_one_that_is_gone(film, tmp_path, watcher):
    out = tmp_path / "d"
    job(film, out, watcher)
    edit(film)
    film.rename(film.with_name("b.y4m"))
    summary = job(film.parent, out, watcher)
    assert (summary.moved, summary.videos) == (0, 1)


def test_it_is_not_cut_either_and_a_copy_of_the_file_is(film, tmp_path, watcher, monkeypatch):
    monkeypatch.setattr("pipelines.curated.card.card.plot_scores", lambda *_: [])
    monkeypatch.setattr("pipelines.curated.card.card.contact_sheet", lambda *_: False)
    out, moved = tmp_path / "d", tmp_path / "moved"
    job(film, out, watcher)
    shutil.copytree(film.parent, moved)  # written anew: another time
    roots = {str(film.parent): str(moved)}
    assert curate(Dataset(out), [], tmp_path / "good", map_fn=map_here, source_roots=roots).clips == 1
    edit(moved / "a.y4m")
    with pytest.raises(CuratedError, match=r"a\.y4m: is not the file that was annotated"):
        curate(Dataset(out), [], tmp_path / "bad", map_fn=map_here, source_roots=roots)
