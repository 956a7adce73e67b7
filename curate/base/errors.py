"""Errors of libraries, in one line of ours."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__
