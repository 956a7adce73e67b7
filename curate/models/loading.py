"""Models given as an instance or as a factory."""

from __future__ import annotations

from typing import Any


def loaded(model: Any) -> Any:
    """The model: as given, or created by a factory without arguments (or class); None stays None.

    With a cached factory (functools.cache) several stages share one instance.
    """
    is_factory = isinstance(model, type) or (callable(model) and not hasattr(model, "name"))
    return model() if is_factory else model
