"""Which extra of Winnow a package comes with, so that an error can say what to install."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires

ASKED_FOR = ("embedded", "full", "train", "ray", "rapidocr", "transnet", "open-clip", "diffusers")  # by people
NAMES = {"open_clip": "open_clip_torch", "libsvm": "brisque", "skimage": "brisque"}  # modules named otherwise
PREFERRED = {"video_model": "train", "curate.models.full": "full"}  # by where the import stands


def install(distribution: str, first: str | None = None) -> str:
    """The command that installs a package: with the extra of Winnow that brings it, else by its own name.

    first: the extra to name where it is one of several.
    """
    extras = extras_with(distribution)
    if not extras:
        return f"pip install {distribution}"
    if first in extras:
        return f"pip install 'winnow[{first}]'"
    others = f" (or {', '.join(f'winnow[{extra}]' for extra in extras[1:])})" if extras[1:] else ""
    return f"pip install 'winnow[{extras[0]}]'{others}"


def missing(error: ModuleNotFoundError) -> str | None:
    """One line about a package that is not installed; None where it belongs to no extra."""
    module = (error.name or "").partition(".")[0]
    distribution = NAMES.get(module, module)
    if not extras_with(distribution):
        return None
    place = next((name for name in _modules(error) if name.startswith(tuple(PREFERRED))), "")
    first = next((extra for prefix, extra in PREFERRED.items() if place.startswith(prefix)), None)
    return f"the package {distribution} is not installed: {install(distribution, first)}"


def extras_with(distribution: str) -> list[str]:
    """The extras that a person would name for a package: those that list it, else those that include such a one."""
    listed, name = _extras(), _normal(distribution)
    direct = [extra for extra in ASKED_FOR if name in listed.get(extra, ())]
    return direct or [extra for extra in ASKED_FOR if name in _with_included(extra, listed)]


@cache
def _extras() -> dict[str, set[str]]:
    """The packages that each extra of the installed Winnow lists; `[name]` stands for another extra."""
    try:
        lines = requires("winnow") or []
    except PackageNotFoundError:  # a checkout that was never installed
        lines = []
    found: dict[str, set[str]] = {}
    for line in lines:
        extra = re.search(r"extra == ['\"]([\w.-]+)", line)
        named = re.match(r"([\w.-]+)\s*(?:\[([^\]]*)\])?", line)
        if extra and named:
            own = {f"[{_normal(other)}]" for other in (named[2] or "").split(",")}
            found.setdefault(_normal(extra[1]), set()).update(own if named[1] == "winnow" else {_normal(named[1])})
    return found


def _with_included(extra: str, listed: dict[str, set[str]]) -> set[str]:
    names = set(listed.get(extra, ()))
    for name in [name for name in names if name.startswith("[")]:
        names |= _with_included(name.strip("[]"), listed)
    return names


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _modules(error: BaseException) -> Iterator[str]:
    """Names of the modules that an exception passed through, the innermost first."""
    names, trace = [], error.__traceback__
    while trace is not None:
        names.append(str(trace.tb_frame.f_globals.get("__name__", "")))
        trace = trace.tb_next
    return reversed(names)
