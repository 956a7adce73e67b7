"""The inspector's answers: JSON for the page's modules, stills and clips by id, and the page itself."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from curate.selection.filters import Filter, SelectionError
from pipelines.dataset.labels import LabelError
from pipelines.inspector.data.choice import Choice, described
from pipelines.inspector.data.listing import Page
from pipelines.inspector.data.loaded import SLOTS, Loaded, strip
from pipelines.inspector.data.media import STILLS, MediaError
from pipelines.inspector.data.session import Session
from pipelines.inspector.panels.clip.film import film, one_clip
from pipelines.inspector.panels.labels.agreement import agreement
from pipelines.inspector.panels.take import taking
from pipelines.inspector.server.guard import Guard

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_FILTERS = 40


class Asked(BaseModel):
    """A filter as the page writes it."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["where", "min", "max", "drop_bottom", "drop_top"]
    column: str = Field("", max_length=200)
    amount: float = Field(0.0, allow_inf_nan=False)
    sql: str = Field("", max_length=5000)


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    filters: list[Asked] = Field([], max_length=MAX_FILTERS)

    def parsed(self) -> list[Filter]:
        return [Filter(f.kind, f.column, f.amount, f.sql) for f in self.filters]


class View(Filters):
    """histograms: scores whose kept clips are to be counted. page: of the grid; none: the grid stays."""

    histograms: list[str] = Field([], max_length=200)
    page: Page | None = None


class Near(Filters):
    index: int = Field(ge=0, le=MAX_FILTERS)
    count: int = Field(12, ge=1, le=120)
    others: bool = True


class One(Filters):
    clip: str = Field(max_length=300)


class Said(BaseModel):
    model_config = ConfigDict(extra="forbid")
    clip: str = Field(max_length=300)
    label: Literal["good", "bad"] | None = None
    note: str | None = Field(None, max_length=2000)


class Take(Filters):
    name: str = Field("curated", max_length=200)


def make_app(session: Session, *, hosts: set[str], token: str | None = None) -> Guard:
    """The whole server. Reading the dataset begins when it starts, in a thread."""

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        threading.Thread(target=session.load, daemon=True).start()
        yield
        session.close()

    app = FastAPI(title="Winnow inspector", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    pages = {path.name: path.read_bytes() for path in resources.files("pipelines.inspector").joinpath("page").iterdir()
             if Path(path.name).suffix in TYPES}  # fmt: skip

    taker = taking.Taker()

    def now() -> Loaded:
        if session.loaded is None or session.loaded.columns is None:
            raise HTTPException(409, session.wrong or "the dataset is being read")
        return session.loaded

    def place_of(loaded: Loaded, clip: str) -> int:
        try:
            return loaded.columns.place(clip)
        except KeyError:
            raise HTTPException(404, f"no clip {clip[:80]!r} in this dataset") from None

    def chosen(loaded: Loaded, asked: Filters) -> Choice:
        return loaded.chooser.choose(asked.parsed())

    @app.exception_handler(SelectionError)
    @app.exception_handler(LabelError)
    @app.exception_handler(MediaError)
    async def mendable(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.get("/")
    async def page() -> Response:
        return Response(pages["index.html"], media_type="text/html", headers={"cache-control": "no-store"})

    @app.get("/page/{name}")
    async def asset(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404, "no such page")
        return Response(pages[name], media_type=TYPES[Path(name).suffix], headers={"cache-control": "no-cache"})

    @app.get("/api/start")
    def start() -> dict[str, Any]:
        if session.changed:
            session.load()
        loaded = session.loaded
        about = loaded.about if loaded else {"path": str(session.root)}
        return {"state": session.state, "wrong": session.wrong} | about

    @app.get("/api/changes")
    def changes() -> dict[str, Any]:
        return {"changed": session.changed, "state": session.state}

    @app.post("/api/view")
    def view(asked: View) -> dict[str, Any]:
        loaded = now()
        wrong = None
        try:
            if asked.page is not None:
                loaded.listing.prepare(asked.page)
        except SelectionError as error:
            wrong = str(error)
        except KeyError:
            raise HTTPException(404, "no such clip") from None
        with loaded.columns.lock:
            choice = chosen(loaded, asked)
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

    @app.post("/api/near")
    def near(asked: Near) -> dict[str, Any]:
        loaded = now()
        choice = chosen(loaded, asked)
        if asked.index >= len(choice.verdicts):
            raise HTTPException(404, "no such filter")
        return loaded.listing.near(choice, asked.index, asked.count, asked.others)

    @app.get("/api/strip")
    def stills_along(column: str = Query(max_length=200)) -> dict[str, Any]:
        loaded = now()
        if column not in loaded.chooser.axes:
            raise HTTPException(404, "no such score")
        return {"clips": strip(loaded.columns, loaded.chooser, column, SLOTS)}

    @app.post("/api/clip")
    def clip(asked: One) -> dict[str, Any]:
        loaded = now()
        return one_clip(loaded.columns, loaded.media, chosen(loaded, asked), place_of(loaded, asked.clip))

    @app.post("/api/film")
    def whole_film(asked: One) -> dict[str, Any]:
        loaded = now()
        (row,) = loaded.columns.rows([place_of(loaded, asked.clip)], ["video_id"])
        return film(loaded.columns, chosen(loaded, asked), row["video_id"])

    @app.get("/api/still")
    def still(clip: str = Query(max_length=300), which: Literal["first", "middle", "last"] = STILLS[1]) -> Response:
        loaded = now()
        data = loaded.media.still(place_of(loaded, clip), which)
        if data is None:
            raise HTTPException(404, "this clip has no such still")
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @app.get("/api/video")
    def video(clip: str = Query(max_length=300)) -> Response:
        loaded = now()
        path = loaded.media.clip(place_of(loaded, clip))
        return FileResponse(path, media_type="video/mp4", headers={"cache-control": "private, max-age=600"})

    @app.post("/api/label")
    def label(said: Said) -> dict[str, Any]:
        loaded = now()
        stored = session.label(place_of(loaded, said.clip), said.label, said.note)
        return {"label": stored.label, "note": stored.note}

    @app.post("/api/agreement")
    def agrees(asked: Filters) -> dict[str, Any]:
        loaded = now()
        return agreement(loaded.columns, chosen(loaded, asked))

    def taken(loaded: Loaded, asked: Take) -> tuple[list[Filter], list[str]]:
        """The filters for `winnow select`, and why others cannot be applied."""
        verdicts = chosen(loaded, asked).verdicts
        sound = [v for v in verdicts if v.error is None]
        filters = taking.asked_of(loaded.inspected, [v.filter for v in sound], [v.threshold for v in sound])
        return filters, [v.error for v in verdicts if v.error is not None]

    @app.post("/api/take")
    def take(asked: Take) -> dict[str, Any]:
        loaded = now()
        filters, wrong = taken(loaded, asked)
        out = str(loaded.inspected.root.parent / asked.name)
        page_order = [f for f in asked.parsed() if f in filters] if loaded.inspected.kind == "annotated" else filters
        return {
            "command": taking.command(loaded.inspected.annotated, out, filters, len(wrong)),
            "yaml": taking.as_yaml(page_order, len(wrong)),
            "left_out": wrong,
            "out": out,
        }

    @app.post("/api/select")
    def select(asked: Take) -> dict[str, Any]:
        loaded = now()
        filters, wrong = taken(loaded, asked)
        if wrong:
            raise SelectionError(f"not written, as a filter cannot be applied: {wrong[0]}: mend it, or turn it off")
        return taker.start(loaded.inspected, asked.name, filters)

    @app.get("/api/select")
    def selecting() -> dict[str, Any]:
        return taker.state

    @app.post("/api/select/stop")
    def stop() -> dict[str, Any]:
        return taker.stop()

    return Guard(app, hosts=hosts, token=token)
