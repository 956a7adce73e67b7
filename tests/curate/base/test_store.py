"""Folders, buckets, memory and fsspec's file systems behind one protocol, and what they do when something goes wrong."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from curate.base.files import DiskError
from curate.base.store import Changed, StoreError, join, locate, shown, store_of
from curate.base.store import connection as connections
from curate.base.store.files import StoreFiles, database, opened, readable_by_sql
from curate.base.store.others import Others

KINDS = ("folder", "s3", "memory", "fsspec")


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    if request.param == "folder":
        return store_of(tmp_path / "a" / "b")
    if request.param == "s3":
        return store_of(f"{request.getfixturevalue('storage').bucket()}/a/b")
    if request.param == "memory":
        return store_of(f"memory://{tmp_path.name}/a/b")
    return Others(f"memory://{tmp_path.name}/a/b")


def test_an_object_is_put_once_and_read_by_ranges(store, tmp_path):
    assert not store.exists("x/1") and list(store.list()) == []
    assert store.put("x/1", b"0123456789") and not store.put("x/1", b"other")
    (tmp_path / "file").write_bytes(b"from a file")
    assert store.put("x/2 #?%41 ü.bin", tmp_path / "file") and store.read("x/2 #?%41 ü.bin") == b"from a file"
    reads = [store.read("x/1", *place) for place in ((), (2, 5), (8,), (8, 99), (5, 5), (-3,), (20, 30))]
    assert reads == [b"0123456789", b"234", b"89", b"89", b"", b"789", b""]
    entry = store.head("x/1")
    assert (entry.name, entry.bytes) == ("x/1", 10) and entry.version
    with store.open("x/1") as stream:
        stream.seek(-4, os.SEEK_END)
        assert stream.read() == b"6789"
    store.delete("x/1")
    store.delete("x/1")
    for missing in (
        lambda: store.read("x/1"),
        lambda: store.head("x/1"),
        lambda: store.open("x/1"),
        lambda: store.head("x"),
    ):
        with pytest.raises(FileNotFoundError):
            missing()


def test_objects_are_listed_in_order_of_their_names(store):
    names = ["a-b", "a.c", "a/b", "a0", "b/part-1", "b/part-2", "b/parts/3", "b/q", "ü"]
    for name in reversed(names):
        store.put(name, b"1")
    assert [entry.name for entry in store.list()] == names
    assert [entry.name for entry in store.list("b/part-")] == ["b/part-1", "b/part-2"]
    assert [entry.name for entry in store.list("a")] == ["a-b", "a.c", "a/b", "a0"]
    assert [entry.name for entry in store.list("a/")] == ["a/b"] and list(store.list("zz")) == []


def test_an_object_is_replaced_only_over_the_version_that_was_seen(store):
    first = store.replace("lock", b"one")
    second = store.replace("lock", b"two", first)
    assert second != first and store.head("lock").version == second
    for version in (first, "nothing"):
        with pytest.raises(Changed):
            store.replace("lock", b"three", version)
    with pytest.raises(Changed):
        store.replace("none", b"three", first)
    assert store.read("lock") == b"two"


def test_two_writers_of_one_name(storage):
    """Of eight processes that put one name at the same moment, one is told that it did."""
    url = storage.bucket()
    code = "import sys; from curate.base.store import store_of; print(store_of(sys.argv[1]).put('x', sys.argv[2].encode()))"
    command = [sys.executable, "-c", code, url]
    writers = [subprocess.Popen([*command, f"{i}"], stdout=subprocess.PIPE, text=True) for i in range(4)]
    said = [writer.communicate()[0].strip() for writer in writers]
    assert sorted(said) == ["False"] * 3 + ["True"]
    assert store_of(url).read("x") == str(said.index("True")).encode()


@pytest.mark.parametrize("kinds", [["500", "late 500", "503"], ["reset", "late reset", "cut"], ["slow", "cut"]])
def test_faults_of_the_service_are_ridden_out(storage, kinds, monkeypatch):
    monkeypatch.setattr(connections, "PAUSE", 0.01)
    store = store_of(f"{storage.bucket()}/d")
    storage.faults(3, 0.5, kinds)
    assert all(store.put(f"{i}", bytes([i]) * 100_000) for i in range(6))  # also where only the answer was lost
    version = store.replace("lease", b"0")
    for i in range(1, 4):
        version = store.replace("lease", f"{i}".encode(), version)
    assert [store.read(f"{i}") for i in range(6)] == [bytes([i]) * 100_000 for i in range(6)]
    assert [entry.name for entry in store.list()] == ["0", "1", "2", "3", "4", "5", "lease"]
    storage.faults(None)
    assert sum(storage.counts()["faults"].values()) >= 4 and store.read("lease") == b"3"


def line(call):
    with pytest.raises(StoreError) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value), caught.value.transient


def test_what_is_wrong_is_said_in_one_line(storage, monkeypatch):
    storage.bucket("there")
    nowhere = store_of("s3://no-such-bucket/d")
    for call in (lambda: nowhere.put("a", b""), lambda: nowhere.read("a"), lambda: list(nowhere.list())):
        assert "there is no bucket s3://no-such-bucket: create it" in line(call)[0]
    assert "an empty part" in line(lambda: store_of("s3://there").put("a//b", b""))[0]
    assert "no storage nfs://" in line(lambda: store_of("nfs://host/a"))[0]
    monkeypatch.setattr(connections, "FIRST_PATIENCE", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said, transient = line(lambda: store_of("s3://there").read("a"))
    assert transient and "the endpoint of http://127.0.0.1:9" in said

    def no_credentials(client, attempt):
        raise OSError("Error performing PUT http://169.254.169.254/latest/api/token")

    monkeypatch.setattr(connections, "_client", lambda *_: None)
    said, transient = line(lambda: connections.Connection("s3://new").call(no_credentials, "s3://new/a"))
    assert not transient and "no credentials were found: set AWS_ACCESS_KEY_ID" in said


def test_no_message_shows_a_secret():
    assert shown("https://user:secret@host/a.mp4?X-Amz-Signature=abc") == "https://host/a.mp4"
    error = ValueError("Error performing GET https://host/a?sig=abc in 1 ms - HTTP error: https://host/a?sig=abc broke")
    assert "abc" not in connections.reason(error)


def test_a_full_disk_is_an_error_of_the_disk_and_leaves_nothing(tmp_path, monkeypatch):
    store = store_of(tmp_path / "d")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(DiskError, match="free space there"):
        store.put("a/b", b"1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_disk_without_links_holds_objects_too(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    store = store_of(tmp_path)
    assert store.put("a", b"1") and not store.put("a", b"2") and store.read("a") == b"1"


def test_what_a_killed_writer_left_is_not_listed_and_is_tidied(tmp_path):
    code = "import os, sys; os.link = lambda *_: os._exit(9); from curate.base.store import store_of; store_of(sys.argv[1]).put('a/b', b'1')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    store = store_of(tmp_path)
    assert len(list((tmp_path / "a").iterdir())) == 1 and list(store.list()) == []
    mine = tmp_path / "a" / f".b.{os.uname().nodename}.{os.getpid()}-1.tmp"
    mine.write_bytes(b"")
    store.tidy()
    assert list((tmp_path / "a").iterdir()) == [mine]


def test_links_that_lead_back_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    os.symlink("..", tmp_path / "a" / "back")
    assert [entry.name for entry in store_of(tmp_path).list()] == ["a/x"]


def test_places_and_their_parts():
    assert locate("s3://b/c/d.mp4") == ("s3://b/c", "d.mp4") and locate("s3://b/d") == ("s3://b", "d")
    assert locate("s3://b") == ("s3://b", "") and locate("/d") == ("/", "d")
    assert join("s3://b/", "c", "d") == "s3://b/c/d" and join("/a", "b") == "/a/b"
    assert str(store_of("file:///tmp/a%20b").folder) == "/tmp/a b"


def test_duckdb_reads_parquet_from_a_bucket(storage, tmp_path):
    store = store_of(f"{storage.bucket()}/t")
    database().execute(f"COPY (SELECT range AS n FROM range(10)) TO '{tmp_path}/t.parquet'")
    store.put("1.parquet", tmp_path / "t.parquet")
    name = readable_by_sql(store.where("1.parquet"))
    assert database().execute(f"SELECT sum(n) FROM read_parquet('{name}')").fetchone() == (45,)
    with opened(store.where("1.parquet")) as stream:
        assert stream.read(4) == b"PAR1"


def test_threads_of_sql_share_a_file_and_each_reads_from_where_it_has_sought():
    """DuckDB seeks and then reads, in several threads on one file: their answers must not be each other's."""
    store = store_of(f"memory://shared{os.getpid()}")
    data = bytes(range(256)) * 1000
    store.put("a", data)
    with ThreadPoolExecutor(1) as other:
        stream = StoreFiles()._open(store.where("a"))
        stream.seek(100)
        assert other.submit(lambda: (stream.seek(5), stream.read(10))[1]).result() == data[5:15]
        assert (stream.read(20), stream.tell()) == (data[100:120], 120)
        assert other.submit(lambda: (stream.read(3), stream.seek(-1, os.SEEK_CUR), stream.read(2))).result() == (
            data[15:18], 17, data[17:19],
        )  # fmt: skip
        assert stream.seek(-4, os.SEEK_END) == len(data) - 4 and stream.read() == data[-4:]
