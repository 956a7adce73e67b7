"""Folders as people have them, and what becomes of everything in them."""

import os

import pytest

from pipelines.sources import folders
from pipelines.sources.folders import AGAIN, ALIAS, CIRCLE, HIDDEN, IN_TRASH, PARTIAL
from pipelines.sources.sources import InputError, find_videos, skipped_text


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.fixture
def folder(tmp_path):
    make(tmp_path, "b.mp4", "a.MKV", "deep/c.webm", "notes.txt", "deep/poster.jpg", "x 'y'\nz.mp4")
    return tmp_path


def names(found, folder):
    return [video.path.removeprefix(f"{folder}/") for video in found.videos]


def test_a_folder_is_searched_and_what_is_skipped_is_counted(folder):
    found = find_videos([str(folder)])
    assert names(found, folder) == ["a.MKV", "b.mp4", "x 'y'\nz.mp4", "deep/c.webm"]
    assert found.skipped.suffixes == {".txt": 1, ".jpg": 1} and not found.skipped.others


def test_each_path_once_whichever_way_it_is_named(folder):
    found = find_videos([f"{folder}/b.mp4", f"{folder}/*.mp4", str(folder), f"{folder}/deep/../b.mp4"])
    assert sorted(names(found, folder)) == ["a.MKV", "b.mp4", "deep/c.webm", "x 'y'\nz.mp4"]


def test_links_to_folders_are_followed_once_and_circles_end(tmp_path):
    make(tmp_path, "disk/one.mp4", "disk/deep/two.mp4", "videos/three.mp4")
    videos = tmp_path / "videos"
    for name, target in {"a": "../disk", "b": "../disk/deep", "circle": "..", "self": "self", "here": "."}.items():
        os.symlink(target, videos / name)
    found = find_videos([str(videos)])
    assert names(found, videos) == ["three.mp4", "a/one.mp4", "a/deep/two.mp4"]
    assert found.skipped.others == {CIRCLE: 3, AGAIN: 1} and not found.refused
    assert found.skipped.examples == {CIRCLE: str(videos / "circle"), AGAIN: str(videos / "b")}
    both = find_videos([str(tmp_path)])  # real names before those of links, wherever these lie
    assert names(both, tmp_path) == ["disk/one.mp4", "disk/deep/two.mp4", "videos/three.mp4"]


def test_a_file_with_two_names_is_one_video_by_its_first(tmp_path):
    make(tmp_path, "a.mp4", "z/real.mp4")
    os.symlink("a.mp4", tmp_path / "b.mp4")
    os.symlink("gone.mp4", tmp_path / "c.mp4")
    os.symlink("/mnt/no such disk", tmp_path / "disk")
    found = find_videos([str(tmp_path)])
    assert names(found, tmp_path) == ["a.mp4", "c.mp4", "z/real.mp4"]  # c.mp4 ends as a failed row
    assert found.skipped.others == {ALIAS: 1}
    (unit,) = found.refused
    assert unit.video.path == str(tmp_path / "disk") and "'/mnt/no such disk', which is not there" in unit.error


def test_a_folder_that_may_not_be_read_is_a_failed_input_and_the_rest_is_found(tmp_path, monkeypatch):
    make(tmp_path, "a.mp4", "secret/b.mp4", "worn/c.mp4", "z/d.mp4")
    real = os.scandir

    def scandir(path):
        if path == str(tmp_path / "secret"):
            raise PermissionError(13, "Permission denied", path)
        if path == str(tmp_path / "worn"):
            raise OSError(5, "Input/output error", path)
        return real(path)

    monkeypatch.setattr(folders.os, "scandir", scandir)
    found = find_videos([str(tmp_path)])
    assert names(found, tmp_path) == ["a.mp4", "z/d.mp4"]
    assert [(unit.video.path, unit.status) for unit in found.refused] == [
        (str(tmp_path / "secret"), "failed"),
        (str(tmp_path / "worn"), "failed"),
    ]
    assert "folder may not be read (permission denied)" in found.refused[0].error
    assert "folder may not be read (input/output error)" in found.refused[1].error
    assert find_videos([str(tmp_path / "secret")]).refused  # a row, also where nothing else was named


NOT_INPUTS = {
    HIDDEN: ("._a.mp4", ".DS_Store", ".thumbs/a.mp4", ".a.mp4.Xy3"),
    IN_TRASH: (".Trashes/a.mov", ".Trash-1000/files/a.mp4", "$RECYCLE.BIN/a.mp4", "@eaDir/a.mp4/x.jpg", "lost+found/a.mp4",
               "System Volume Information/a.mp4", "__MACOSX/._a.mp4"),
    PARTIAL: ("a.mp4.part", "b.f137.mp4.part", "c.mp4.ytdl", "d.mp4.crdownload", "e.mp4.download/e.mp4", "f.mp4.tmp",
              "g.mp4.part-Frag12", "h.mp4", "h.mp4.aria2"),
}  # fmt: skip


def test_what_is_no_input_is_skipped_counted_and_named(tmp_path):
    make(tmp_path, "a.mp4", *(name for kind in NOT_INPUTS.values() for name in kind))
    found = find_videos([str(tmp_path)])
    assert names(found, tmp_path) == ["a.mp4"]
    assert found.skipped.others == {kind: len(given) for kind, given in NOT_INPUTS.items()}
    assert "1 hidden" not in skipped_text(found.skipped) and "4 hidden (e.g. '" in skipped_text(found.skipped)
    with pytest.raises(InputError, match=r"no videos in .* skipped: 1 partial download \('x.part'\)"):
        make(tmp_path / "only", "x.part")
        find_videos([str(tmp_path / "only")])


def test_hidden_files_that_are_named_are_taken(tmp_path):
    make(tmp_path, ".a.mp4", ".cache/b.mp4", "c.mp4.part")
    (tmp_path / "l.txt").write_text(".cache/b.mp4\n")
    named = [str(tmp_path / ".a.mp4"), str(tmp_path / "l.txt"), str(tmp_path / "c.mp4.part")]
    assert names(find_videos(named), tmp_path) == [".a.mp4", ".cache/b.mp4", "c.mp4.part"]
    assert names(find_videos([str(tmp_path / ".cache")]), tmp_path) == [".cache/b.mp4"]


def test_captions_beside_videos_and_videofolders_metadata(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4", "train/d.mp4", "other/metadata.csv")
    (tmp_path / "a.txt").write_text("a bee\n")
    (tmp_path / "b.json").write_text('{"caption": ["a cat", "a tom"], "licence": "cc"}')
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.mp4", "text": "one more", "id": 3}\n{"file_name": "train/d.mp4", "text": "a dog"}\n{"file_name": "gone.mp4"}\n'
    )
    (tmp_path / "other" / "metadata.csv").write_text("what,not\n1,2\n")
    found = find_videos([str(tmp_path)])
    said = {video.path.removeprefix(f"{tmp_path}/"): (video.captions, video.columns) for video in found.videos}
    assert said == {
        "a.mp4": (["a bee", "one more"], {"id": 3}),
        "b.mp4": (["a cat", "a tom"], {"licence": "cc"}),
        "c.mp4": ([], {}),
        "gone.mp4": ([], {}),  # it ends as a failed row
        "train/d.mp4": (["a dog"], {}),
    }
    text = skipped_text(found.skipped)
    assert "1 caption file that cannot be read ('c.txt')" in text
    assert "1 metadata file that names no videos ('metadata.csv')" in text


def test_globs(folder):
    make(folder, "raw/1.dat", "raw/2.mp4")
    assert names(find_videos([f"{folder}/raw/*"]), folder) == ["raw/2.mp4"]
    assert names(find_videos([f"{folder}/raw/*.dat"]), folder) == ["raw/1.dat"]
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        find_videos(["nowhere"])
    with pytest.raises(InputError, match=r"rtsp://x.org/v.mp4: is an address of no storage"):
        find_videos(["rtsp://x.org/v.mp4"])
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="no videos in"):
        find_videos([str(folder / "empty")])


def test_the_datasets_own_videos_are_no_sources(tmp_path):
    make(tmp_path, "a.mp4", "data/sources/held.mp4")
    assert names(find_videos([str(tmp_path)], tmp_path / "data"), tmp_path) == ["a.mp4"]


def test_names_that_are_no_text(tmp_path):
    """Bytes of a name that are not UTF-8: the row of a failed input can be written all the same."""
    from curate.clip import Unit, Video
    from pipelines.dataset.dataset import Tables

    odd = os.fsdecode(b"caf\xe9")
    os.symlink(f"/mnt/{odd}", tmp_path / odd)
    (tmp_path / f"{odd}.csv").write_text("path,start,end\na.mp4,soon,2\n,1,2\n")
    make(tmp_path, f"{odd}.mp4")
    (tmp_path / "l.txt").write_bytes(b"caf\xe9.mp4\n")
    found = find_videos([str(tmp_path), str(tmp_path / f"{odd}.csv"), str(tmp_path / "l.txt")])
    assert len(found.videos) == 2 and len(found.refused) == 2  # the list and the folder name the same file
    for unit in [*found.refused, *(Unit(video) for video in found.videos)]:
        row = Tables(scores=(), facts=()).video_row(unit)
        assert all(row[name] is None or row[name].encode() for name in ("video_path", "error", "source_spans"))
    assert isinstance(found.videos[0], Video) and skipped_text(found.skipped).isprintable()
