"""The inspector's server: what every panel shares, then each panel's own routes, behind the guard."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from curate.selection.filters import SelectionError
from pipelines.dataset.labels import LabelError
from pipelines.inspector.data.inspected import InspectError
from pipelines.inspector.data.media import MediaError
from pipelines.inspector.data.session import Session
from pipelines.inspector.panel import Panel
from pipelines.inspector.panels import PANELS
from pipelines.inspector.server.guard import Guard
from pipelines.inspector.server.pages import check, page_routes
from pipelines.inspector.server.routes import media_routes, panel_routes, state_routes, view_routes


def make_app(
    session: Session, *, hosts: set[str], token: str | None = None, panels: Sequence[type[Panel]] = PANELS
) -> Guard:
    """The whole server. Reading the dataset begins when it starts, in a thread. Raises PanelError."""

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        threading.Thread(target=session.load, daemon=True).start()
        yield
        session.close()

    app = FastAPI(title="Winnow inspector", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    shown = [panel(session) for panel in panels]
    shared = [state_routes(session), view_routes(session), media_routes(session)]
    check(shown, [f"{method} {route.path}" for router in shared for route in router.routes for method in route.methods])
    for router in (page_routes(shown), *shared, *(panel_routes(panel) for panel in shown)):
        app.include_router(router)
    for kind in (SelectionError, LabelError, MediaError, InspectError):
        app.add_exception_handler(kind, _fixable)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    return Guard(app, hosts=hosts, token=token)


async def _fixable(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _refused(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": str(error.detail)}, error.status_code)


async def _malformed(_: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)
