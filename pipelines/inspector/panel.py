"""What a panel of the inspector's page is: one class that declares its name, its place, its routes, its script and style.

A panel of one's own needs one file and one entry in a list:

    class Longest(Panel):
        name, title, area = "longest", "Longest clips", "left"
        script = '''
            import { get, h } from "./dom.js";
            export async function mount(root) {
              const found = await get("/api/longest");
              root.append(h("h2", {}, "Longest clips"), ...found.map((id) => h("p", {}, id)));
            }
        '''

        def routes(self):
            return {"GET /api/longest": self.longest}

        def longest(self) -> list[str]:
            columns = self.loaded().columns
            return [columns.id(int(at)) for at in columns.order("seconds")[:-11:-1]]

    make_app(session, hosts=..., panels=[*PANELS, Longest])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from fastapi import HTTPException

from curate.part import Part
from pipelines.inspector.data.loaded import Loaded
from pipelines.inspector.data.session import Session

__all__ = ["Panel", "PanelError", "asset"]


class PanelError(Exception):
    """A panel that cannot be part of the page. One line: the panel, the reason, the fix."""


class Panel(Part):
    """A part of the page.

    name: of its element's id, its script and its style; letters, digits, - and _. title: what a screen reader calls it.
    area: the left or right column, in the order of the list; or a dialog, which opens by itself or by a button at the
    top. button: that button's text. without_clips: it is shown also where a dataset has videos but no clips.

    script, style: their text; None: the files NAME.js and NAME.css beside the class's own. The script is a module that
    exports `mount(root, state)`, called with the panel's element each time the dataset was read, and, as it needs them
    (`draw` not before `mount` is done):

        draw(event)    something changed: "filters", "view" (their answer), "histograms", "near", or an object such as
                       {open: id} that another panel sent
        open()         of a dialog: its button was pressed
        keys, inside   rows [key names, what they do, run(key, event)]: on the page, and while the panel's dialog is open

    It may import ./dom.js, ./state.js, ./filters.js and ./labelling.js, and no other panel's script.
    """

    title: ClassVar[str]
    area: ClassVar[Literal["left", "right", "dialog"]] = "left"
    button: ClassVar[str] = ""
    without_clips: ClassVar[bool] = False
    script: ClassVar[str | None] = None
    style: ClassVar[str | None] = None

    def __init__(self, session: Session) -> None:
        self.session = session

    def routes(self) -> Mapping[str, Callable[..., Any]]:
        """ "GET /api/..." or "POST /api/..." -> a method, as FastAPI takes it: typed arguments in, JSON or a Response out."""
        return {}

    def loaded(self) -> Loaded:
        """The dataset that the page shows. HTTPException 409 while it is being read, or where it has no clips."""
        return loaded_of(self.session)


def loaded_of(session: Session) -> Loaded:
    if session.loaded is None or session.loaded.columns is None:
        raise HTTPException(409, session.wrong or "the dataset is being read")
    return session.loaded


def place_of(loaded: Loaded, clip: str) -> int:
    """Index of a clip. HTTPException 404 for an id that is not one of the dataset."""
    try:
        return loaded.columns.place(clip)
    except KeyError:
        raise HTTPException(404, f"no clip {clip[:80]!r} in this dataset") from None


def asset(panel: type[Panel] | Panel, kind: Literal["script", "style"]) -> str:
    """The text of a panel's script or style; "" where it has none. Raises PanelError for a panel without a script."""
    given = getattr(panel, kind)
    if given is not None:
        return given
    owner = panel if isinstance(panel, type) else type(panel)
    path = Path(inspect.getfile(owner)).parent / f"{panel.name}.{'js' if kind == 'script' else 'css'}"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if kind == "style":
            return ""
        raise PanelError(
            f"panel {panel.name}: has no script: give {owner.__name__}.script, or write {path.name} beside its file"
        ) from None
