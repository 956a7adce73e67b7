"""What `winnow sample` writes, and what it says where it cannot."""

import cv2
import numpy as np
import pytest

from pipelines.cli.drawing import SamplingError, write_still

FRAME = np.array([[[255, 0, 0], [0, 0, 255]], [[10, 20, 30], [0, 0, 0]]], np.uint8)  # RGB


def test_a_still_is_written_as_it_is(tmp_path):
    write_still(tmp_path / "still.png", FRAME)
    assert (cv2.imread(str(tmp_path / "still.png"))[:, :, ::-1] == FRAME).all()


def test_a_still_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none/still\.png"):
        write_still(tmp_path / "none" / "still.png", FRAME)
    with pytest.raises(IsADirectoryError):
        write_still(tmp_path, FRAME)
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.zeros(0, np.uint8)))
    with pytest.raises(SamplingError, match=r"still\.png: 2x2 px cannot be written as PNG: lower --scale or --size"):
        write_still(tmp_path / "still.png", FRAME)
    assert not list(tmp_path.iterdir())
