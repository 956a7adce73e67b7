"""Stages take a model, or something that makes one."""

from __future__ import annotations

from typing import Any


def loaded(model: Any) -> Any:
    """The model itself, or what a factory without arguments (a class included) makes; None stays None.

    A factory that remembers what it made (functools.cache) lets several stages share one instance.
    """
    is_factory = isinstance(model, type) or (callable(model) and not hasattr(model, "name"))
    return model() if is_factory else model
