"""What every panel shares: the start of the page, the answer to a change of the filters, stills and clips by id."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import FileResponse, Response
from pydantic import Field

from curate.selection.filters import SelectionError
from pipelines.inspector.data.choice import described
from pipelines.inspector.data.listing import Page
from pipelines.inspector.data.media import STILLS
from pipelines.inspector.data.session import Session
from pipelines.inspector.panel import loaded_of, place_of
from pipelines.inspector.requests import Filters


class WantedView(Filters):
    """histograms: scores whose kept clips are to be counted. page: of the grid; none: the grid stays."""

    histograms: list[str] = Field([], max_length=200)
    page: Page | None = None


def state_routes(session: Session) -> APIRouter:
    """The dataset: what it is, and whether it has changed since it was read."""
    router = APIRouter()

    @router.get("/api/start")
    def start() -> dict[str, Any]:
        if session.changed:
            session.load()
        loaded = session.loaded
        about = loaded.about if loaded else {"path": session.root}
        return {"state": session.state, "wrong": session.wrong, "version": session.version} | about

    @router.get("/api/changes")
    def changes() -> dict[str, Any]:
        return {"changed": session.changed, "state": session.state, "version": session.version}

    return router


def view_routes(session: Session) -> APIRouter:
    """What the filters keep: counts, funnel, histograms, and a page of the grid, all of one moment."""
    router = APIRouter()

    @router.post("/api/view")
    def view(asked: WantedView) -> dict[str, Any]:
        return session.current(lambda: answered(asked))

    def answered(asked: WantedView) -> dict[str, Any]:
        loaded = loaded_of(session)
        wrong = None
        try:
            if asked.page is not None:
                loaded.listing.prepare(asked.page)
        except SelectionError as error:
            wrong = str(error)
        except KeyError:
            raise HTTPException(404, "no such clip") from None
        with loaded.columns.lock:
            choice = asked.choice(loaded)
            made: dict[str, Any] = {
                "clips": choice.clips,
                "hours": choice.hours,
                "funnel": described(choice),
                "histograms": {
                    name: loaded.chooser.histogram(name, choice)
                    for name in asked.histograms
                    if name in loaded.chooser.axes
                },
            }
            if asked.page is not None and wrong is None:
                try:
                    made["grid"] = loaded.listing.page(choice, asked.page)
                except SelectionError as error:
                    wrong = str(error)
        return made | ({"grid": {"total": 0, "rows": [], "note": "", "error": wrong}} if wrong else {})

    return router


def media_routes(session: Session) -> APIRouter:
    """Stills and clips."""
    router = APIRouter()

    @router.get("/api/still")
    def still(clip: str = Query(max_length=300), which: Literal["first", "middle", "last"] = STILLS[1]) -> Response:
        def found() -> bytes | None:
            loaded = loaded_of(session)
            return loaded.media.still(place_of(loaded, clip), which)

        data = session.current(found)
        if data is None:
            raise HTTPException(404, "this clip has no such still")
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @router.get("/api/video")
    def video(clip: str = Query(max_length=300)) -> Response:
        def found() -> Path:
            loaded = loaded_of(session)
            return loaded.media.clip(place_of(loaded, clip))

        return FileResponse(
            session.current(found), media_type="video/mp4", headers={"cache-control": "private, max-age=600"}
        )

    return router


def panel_routes(panel: Any) -> APIRouter:
    """The routes that a panel declares."""
    router = APIRouter()
    for route, answer in panel.routes().items():
        method, path = route.split()
        router.add_api_route(path, _current(panel.session, answer), methods=[method])
    return router


def _current(session: Session, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Of a panel's method: answers from the dataset as it is now where a shard is gone."""
    if inspect.iscoroutinefunction(answer):
        return answer

    @functools.wraps(answer)
    def current(*given: Any, **named: Any) -> Any:
        return session.current(lambda: answer(*given, **named))

    return current
