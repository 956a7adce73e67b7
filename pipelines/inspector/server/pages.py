"""The page itself: the document made of the list of panels, the shared modules, and each panel's script and style."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response
from jinja2 import Environment, PackageLoader

from pipelines.inspector.panel import Panel, PanelError, asset

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NAME, ROUTE = re.compile(r"[a-z][a-z0-9_-]*"), re.compile(r"(GET|POST) /api/[a-zA-Z0-9_/-]+")
ELEMENTS = {"main", "message", "panes", "bar", "toast"}
AREAS = ("left", "right", "dialog")


def page_routes(panels: Sequence[Panel]) -> APIRouter:
    """ "/" and "/page/NAME". Raises PanelError for a panel without a script."""
    files = shared_files()
    for panel in panels:
        files[f"{panel.name}.js"] = asset(panel, "script").encode()
        if style := asset(panel, "style"):
            files[f"{panel.name}.css"] = style.encode()
    document = _document(panels, list(files))
    router = APIRouter()

    @router.get("/")
    async def page() -> Response:
        return Response(document, media_type="text/html", headers={"cache-control": "no-store"})

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such page")
        return Response(files[name], media_type=TYPES[Path(name).suffix], headers={"cache-control": "no-cache"})

    return router


def shared_files() -> dict[str, bytes]:
    """Name -> bytes, of what every panel shares."""
    folder = resources.files("pipelines.inspector").joinpath("page")
    paths = sorted((path for path in folder.iterdir() if Path(path.name).suffix in TYPES), key=lambda path: path.name)
    return {path.name: path.read_bytes() for path in paths}


def check(panels: Sequence[Panel], taken: Sequence[str]) -> None:
    """PanelError unless all names and routes can stand beside one another. taken: routes of the server itself."""
    names, routes = ELEMENTS | {Path(name).stem for name in shared_files()}, set(taken)
    for panel in panels:
        if not NAME.fullmatch(panel.name):
            raise PanelError(f"panel {panel.name!r}: a name is lower-case letters, digits, - and _")
        if panel.name in names:
            raise PanelError(f"panel {panel.name}: the name is taken: choose another")
        if panel.area not in AREAS:
            raise PanelError(f"panel {panel.name}: no area {panel.area!r}: choose from {', '.join(AREAS)}")
        names.add(panel.name)
        for route in panel.routes():
            if not ROUTE.fullmatch(route):
                raise PanelError(f"panel {panel.name}: {route!r} is no route: write GET /api/... or POST /api/...")
            if route in routes:
                raise PanelError(f"panel {panel.name}: another panel answers {route}: choose another path")
            routes.add(route)


def _document(panels: Sequence[Panel], files: Sequence[str]) -> str:
    pages = Environment(
        loader=PackageLoader("pipelines.inspector", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template("index.html").render(
        areas={area: [panel for panel in panels if panel.area == area] for area in AREAS},
        styles=[name for name in files if name.endswith(".css")],
        modules=[name for name in files if name.endswith(".js") and name != "app.js"],
    )
