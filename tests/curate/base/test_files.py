"""Files and folders appear whole or not at all, whatever ends the writing."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from curate.base import files
from curate.base.files import DiskError, atomic_file, atomic_folder, commit, write_atomic, write_json, writing


@pytest.fixture
def synced(monkeypatch):
    """What was flushed to the disk, by name, in order."""
    names, fsync = [], os.fsync

    def noted(descriptor):
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", noted)
    return names


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_appears_whole_or_not_at_all(tmp_path, durable):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_file(path, durable=durable) as stream:
        stream.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with atomic_file(path, durable=durable) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_the_file_is_flushed_before_its_name_and_the_name_too(tmp_path, synced):
    write_atomic(tmp_path / "a", b"1")
    assert synced == [f".a.{os.getpid()}.tmp", tmp_path.name]
    write_atomic(tmp_path / "a", b"1", durable=False)
    assert len(synced) == 2
    (tmp_path / "b").write_bytes(b"2")
    commit(tmp_path / "b", tmp_path / "c")
    assert synced[2:] == ["b", tmp_path.name] and (tmp_path / "c").read_bytes() == b"2"


def test_json_keeps_letters(tmp_path):
    write_json(tmp_path / "a.json", {"name": "fjörð"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "fjörð" in text and json.loads(text) == {"name": "fjörð"}


def test_killed_while_writing_the_old_file_stays(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    code = f"""
        import os, signal
        from pathlib import Path
        from curate.base.files import atomic_file
        with atomic_file(Path({str(path)!r})) as stream:
            stream.write(b"half")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert ended.returncode == -signal.SIGKILL and path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_full_disk_names_the_folder_and_other_errors_stay(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DiskError, match=rf"^{tmp_path}: cannot be written to \(No space left on device\)") as caught:
        write_atomic(tmp_path / "a", b"1")
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    with pytest.raises(PermissionError), writing(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_folder_appears_whole_or_not_at_all(tmp_path, synced):
    path = tmp_path / "step-1"
    with pytest.raises(KeyError), atomic_folder(path) as aside:
        (aside / "half").write_bytes(b"half")
        raise KeyError
    assert not list(tmp_path.iterdir()) and not synced
    (tmp_path / ".step-1").mkdir()  # left by a process that was killed
    (tmp_path / ".step-1" / "half").write_bytes(b"half")
    for content in (b"old", b"new"):
        with atomic_folder(path) as aside:
            (aside / "in").mkdir()
            (aside / "in" / "a").write_bytes(content)
        assert list(tmp_path.iterdir()) == [path] and (path / "in" / "a").read_bytes() == content
    assert [str(p.relative_to(path)) for p in sorted(path.rglob("*"))] == ["in", "in/a"]
    assert synced[:4] == ["in", "a", ".step-1", tmp_path.name]
