"""An error of a library in one line."""

from video_model.errors import first_line


def test_the_first_line_or_the_class():
    assert first_line(ValueError("  bad shape\nlong story")) == "bad shape"
    assert first_line(KeyError()) == "KeyError" and first_line(OSError("\n")) == "OSError"
