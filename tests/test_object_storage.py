"""The S3 server of the tests: what it counts, and that it fails as the seed says."""

import urllib.error
import urllib.request

from curate.base.store import store_of


def test_requests_and_bytes_are_counted(storage):
    store = store_of(f"{storage.bucket()}/folder")
    assert store.put("a", b"x" * 1000) and not store.put("a", b"y")
    assert store.read("a", 10, 30) == b"x" * 20
    assert [entry.name for entry in store.list()] == ["a"]
    found = storage.counts()
    assert found["by_method"] == {"PUT": 3, "HEAD": 1, "GET": 1, "LIST": 1}  # a PUT made the bucket
    assert list(found["by_key"].values()) == [[1, 20]] and not found["faults"]


def test_the_same_requests_fail_with_the_same_seed(storage):
    store = store_of(storage.bucket())
    store.put("a", b"x" * 100)

    def faults(seed):
        storage.reset()
        storage.faults(seed, 0.5, kinds=["500"], only="GET")
        url, failed = f"{storage.endpoint}/{store.url.removeprefix('s3://')}/a", []
        for _ in range(20):
            try:
                urllib.request.urlopen(url).close()
                failed.append(False)
            except urllib.error.HTTPError as error:
                failed.append(error.code == 500)
        assert storage.counts()["faults"] == {"500": sum(failed)}
        return failed

    one = faults(1)
    assert any(one) and not all(one) and faults(1) == one and faults(2) != one


def test_whatever_the_faults_an_object_is_put_once_and_read_whole(storage):
    store = store_of(storage.bucket())
    storage.faults(5, 0.4, kinds=["500", "503", "late 500", "slow"])
    for number in range(10):
        store.put(f"{number}", bytes([number]) * 1000)
    assert [store.read(f"{number}") for number in range(10)] == [bytes([number]) * 1000 for number in range(10)]
    assert sum(storage.counts()["faults"].values()) > 3
