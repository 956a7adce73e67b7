"""A part is one file and one entry of a list: no third file of the packages names it."""

import pytest

from tests.places import LISTS, NAMED_ELSEWHERE, beyond, imports


@pytest.fixture(scope="module")
def known():
    return imports()


@pytest.mark.parametrize("kind", LISTS)
def test_no_other_file_names_a_part(kind, known):
    parts, _ = LISTS[kind]
    assert parts and {name: files for name, files in beyond(parts, known).items() if name not in NAMED_ELSEWHERE} == {}


def test_the_count_sees_a_third_file(known):
    class Elsewhere:
        pass

    Elsewhere.__module__, Elsewhere.__name__ = "curate.clip", "Column"
    assert len(beyond([Elsewhere], known)["Column"]) > 5
