"""Fixtures that tests in several folders share."""

from collections.abc import Iterator

import pytest

from tests.object_storage import Storage


@pytest.fixture(scope="session")
def storage_server() -> Iterator[Storage]:
    with Storage() as server:
        yield server


@pytest.fixture
def storage(storage_server: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A running S3 server, which this process and its children find by the environment. Counts from 0; no faults yet."""
    for name, value in storage_server.environment.items():
        monkeypatch.setenv(name, value)
    storage_server.reset()
    yield storage_server
    storage_server.faults(None)
