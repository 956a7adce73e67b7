"""How many places name a part: `python -m tests.places` prints the table.

A part is one class, function or object in one file, and one entry of one list. So no file of the packages but these two may
name it: what another file says of one part by name has to be edited for the next one too. The counts before are those
that were measured of the code at commit 223403b; empty: nobody counted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curate.observers.observer import Observer
from curate.parts import ADAPTERS, STAGES
from curate.selection.presets import PRESETS
from pipelines.formats.formats import FORMATS
from pipelines.inspector.panels import PANELS
from video_model.codecs import CODECS
from video_model.diffusion.parametrisations import PARAMETRISATIONS
from video_model.diffusion.samplers import SAMPLERS
from video_model.diffusion.slots import SLOTS
from video_model.encoders import ENCODERS
from video_model.networks import NETWORKS
from video_model.networks.mixers import ATTENTION_MIXERS, CONV_MIXERS

NAMED_ELSEWHERE = {
    "UNet": "the layout of public checkpoints (public/formats.py) is that of this network alone",
    "Mixer": "the protocol of mixers, which is also the mixer that does nothing",
}
ROOT = Path(__file__).parent.parent
PACKAGES = ("curate", "pipelines", "video_model")
LISTS: dict[str, tuple[Iterable[Any], str]] = {
    "score (stage)": ([part for part in STAGES if not issubclass(part, Observer)], "14"),
    "observer": ([part for part in STAGES if issubclass(part, Observer)], "12"),
    "model (adapter)": (ADAPTERS, "4"),
    "preset": (PRESETS, ""),
    "export format": (FORMATS, "8"),
    "panel": (PANELS, "5 to 7"),
    "sampler": (SAMPLERS, ""),
    "parametrisation": (PARAMETRISATIONS, ""),
    "network": (NETWORKS, "10"),
    "mixer": ([*CONV_MIXERS, *ATTENTION_MIXERS], ""),
    "conditioning slot": (SLOTS, "12"),
    "codec": (CODECS, ""),
    "text encoder": (ENCODERS, ""),
}


def identifier(part: Any) -> tuple[str, Path]:
    """The name that other files would call a part by, and its own file."""
    module = __import__(getattr(part, "__module__", "") or type(part).__module__, fromlist=["_"])
    name = getattr(part, "__name__", None)
    if name is None:  # an object: the name that its module gives it
        name = next(key for key, value in vars(module).items() if value is part)
    return name, Path(module.__file__).relative_to(ROOT)


def imports() -> dict[tuple[str, str], set[Path]]:
    """(module, name) -> the files of the packages that import it from there."""
    found: dict[tuple[str, str], set[Path]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    for alias in node.names:
                        found.setdefault((node.module, alias.name), set()).add(path.relative_to(ROOT))
    return found


def beyond(parts: Iterable[Any], known: dict[tuple[str, str], set[Path]]) -> dict[str, list[str]]:
    """Part -> the files that name it beside its own and one list."""
    extra = {}
    for part in parts:
        name, own = identifier(part)
        others = sorted(str(path) for path in _importers(name, own, known))
        if len(others) > 1:
            extra[name] = others
    return extra


def _importers(name: str, own: Path, known: dict[tuple[str, str], set[Path]]) -> set[Path]:
    """Files that import a name from its own file, or from the list's package, which hands it on."""
    module = ".".join(own.with_suffix("").parts)
    folders = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
    return set().union(*(known.get((place, name), set()) for place in (module, *folders))) - {own}


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    known = imports()
    table = Table("to add", "places before", "now", title="places to edit", title_justify="left")
    for kind, (parts, before) in LISTS.items():
        extra = {name: files for name, files in beyond(parts, known).items() if name not in NAMED_ELSEWHERE}
        most = max(map(len, extra.values()), default=1)
        table.add_row(kind, before, f"{1 + most} files" if extra else "its file + an entry of a list")
    table.caption = "\n".join(f"{name}: {why}" for name, why in NAMED_ELSEWHERE.items())
    Console().print(table)


if __name__ == "__main__":
    main()
