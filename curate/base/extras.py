"""Which extra of Winnow installs a package, so that errors can name the command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires

EXTRAS = (
    "embedded",
    "full",
    "train",
    "ray",
    "rapidocr",
    "transnet",
    "open-clip",
    "diffusers",
    "bitsandbytes",
)  # that a user installs
DISTRIBUTIONS = {
    "open_clip": "open_clip_torch",
    "libsvm": "brisque",
    "skimage": "brisque",
}  # module -> distribution, where the names differ
PREFERRED_EXTRA = {"video_model": "train", "curate.models.full": "full"}  # importing package -> the extra to name first


def install_command(distribution: str, first: str | None = None) -> str:
    """The command that installs a package: through an extra of Winnow that includes it, else directly.

    first: the extra to prefer.
    """
    extras = extras_with(distribution)
    if not extras:
        return f"pip install {distribution}"
    if first in extras:
        return f"pip install 'winnow[{first}]'"
    others = f" (or {', '.join(f'winnow[{extra}]' for extra in extras[1:])})" if extras[1:] else ""
    return f"pip install 'winnow[{extras[0]}]'{others}"


def missing_package(error: ModuleNotFoundError) -> str | None:
    """One line about a package that is not installed, with the command; None where no extra includes it."""
    module = (error.name or "").partition(".")[0]
    distribution = DISTRIBUTIONS.get(module, module)
    if not extras_with(distribution):
        return None
    place = next((name for name in _modules(error) if name.startswith(tuple(PREFERRED_EXTRA))), "")
    first = next((extra for prefix, extra in PREFERRED_EXTRA.items() if place.startswith(prefix)), None)
    return f"the package {distribution} is not installed: {install_command(distribution, first)}"


def extras_with(distribution: str) -> list[str]:
    """The extras that list a package; else those that include one that does."""
    listed, name = _extras(), _normal(distribution)
    direct = [extra for extra in EXTRAS if name in listed.get(extra, ())]
    return direct or [extra for extra in EXTRAS if name in _with_included(extra, listed)]


@cache
def _extras() -> dict[str, set[str]]:
    """The packages that each extra of the installed Winnow lists; `[name]` stands for another extra."""
    try:
        lines = requires("winnow") or []
    except PackageNotFoundError:  # a checkout that is not installed
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
    """Names of the modules in an exception's traceback, innermost first."""
    names, trace = [], error.__traceback__
    while trace is not None:
        names.append(str(trace.tb_frame.f_globals.get("__name__", "")))
        trace = trace.tb_next
    return reversed(names)
