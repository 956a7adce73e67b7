"""A panel of one's own: one class and one entry in a list, and it is on the page with its data; what cannot be is refused."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from pipelines.inspector import panels
from pipelines.inspector.data.session import Session
from pipelines.inspector.panel import Panel, PanelError
from pipelines.inspector.panels import PANELS
from pipelines.inspector.server.app import make_app
from tests.pipelines.inspector import data
from tests.pipelines.inspector.conftest import serving


class Fastest(Panel):
    """The clips with the most motion."""

    name, title, area = "fastest", "Fastest clips", "left"
    script = """
        import { get, h } from "./dom.js";
        import { state, tell } from "./state.js";
        export const keys = [["f", "count the fastest", () => { document.title = "f was pressed"; }]];
        let kept = null;
        export async function mount(root) {
          const { column, clips } = await get("/api/fastest", { most: 2 });
          kept = h("i", {}, "…");
          const row = (clip) => h("button", { class: "row", onclick: () => tell({ open: clip }) }, clip);
          root.replaceChildren(h("h2", {}, `Fastest by ${column} of ${state.about.clips} `, kept), ...clips.map(row));
        }
        export function draw(event) {
          if (event === "view") kept.textContent = `${state.view.clips} kept`;
        }
    """
    style = "#fastest .row { color: rgb(1, 2, 3); }"

    def routes(self):
        return {"GET /api/fastest": self.fastest}

    def fastest(self, most: int = 10) -> dict:
        columns = self.loaded().columns
        fast = columns.order("motion_score")[::-1][:most]
        return {"column": "motion_score", "clips": [columns.id(int(at)) for at in fast]}


class Broken(Panel):
    name, title, script = "broken", "Broken", "export function mount() { throw new Error('no such thing'); }"


def test_one_class_and_one_entry_are_a_panel_on_the_page(browser, annotated, tmp_path):
    with serving(annotated, tmp_path, panels=[*PANELS, Fastest]) as server:
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(server.address)
        page.wait_for_selector("#fastest .row")
        assert page.locator("#fastest h2").inner_text().startswith("Fastest by motion_score of 20")
        rows = page.locator("#fastest .row")
        assert rows.all_inner_texts() == [data.clip_id(3, 4), data.clip_id(3, 3)]  # motion 10 and 9
        assert rows.first.evaluate("row => getComputedStyle(row).color") == "rgb(1, 2, 3)"
        assert page.locator(".pane.left > section").last.get_attribute("aria-label") == "Fastest clips"
        page.wait_for_function("() => document.querySelector('#fastest i').textContent === '13 kept'")
        page.keyboard.press("?")
        assert "count the fastest" in page.locator("#keys").inner_text()
        page.keyboard.press("Escape")
        page.keyboard.press("f")
        assert page.title() == "f was pressed"
        rows.first.click()
        page.wait_for_function("id => document.querySelector('#clip code')?.textContent === id", arg=data.clip_id(3, 4))
        assert not errors
        page.close()


def test_a_panel_that_fails_costs_itself(browser, annotated, tmp_path):
    with serving(annotated, tmp_path, panels=[Broken, *PANELS]) as server:
        page = browser.new_page()
        page.goto(server.address)
        page.wait_for_selector(".tile")
        assert page.locator("#broken").inner_text() == "The panel broken failed: no such thing"
        page.close()


def made(tmp_path, **facts):
    return make_app(Session(tmp_path, tmp_path), hosts=set(), panels=[*PANELS, type("Own", (Panel,), facts)])


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"name": "grid"}, "panel grid: the name is taken"),
        ({"name": "dom"}, "panel dom: the name is taken"),
        ({"name": "toast"}, "panel toast: the name is taken"),
        ({"name": "a b"}, "a name is lower-case letters"),
        ({"name": "own", "area": "top"}, "no area 'top': choose from left, right, dialog"),
        ({"name": "own", "script": None}, "has no script: give Own.script, or write own.js"),
        ({"name": "own", "routes": lambda self: {"PUT /api/own": print}}, "'PUT /api/own' is no route"),
        ({"name": "own", "routes": lambda self: {"GET /page/own": print}}, "'GET /page/own' is no route"),
        ({"name": "own", "routes": lambda self: {"GET /api/start": print}}, "another panel answers GET /api/start"),
        ({"name": "own", "routes": lambda self: {"GET /api/strip": print}}, "another panel answers GET /api/strip"),
    ],
)
def test_a_panel_that_cannot_be_says_why(tmp_path, facts, says):
    with pytest.raises(PanelError, match=says):
        made(tmp_path, **{"title": "Own", "script": "", **facts})


def test_scripts_import_one_way():
    """A panel's script imports what all share, and no other panel's; what is shared has no circles."""
    folder = Path(panels.__file__).parent
    shared = {path.name: imported(path) for path in (folder.parent / "page").glob("*.js")}
    own = {path.name: imported(path) for path in folder.glob("*/*.js")}
    assert len(own) == len(PANELS) and "dom.js" in shared
    assert {name: found - shared.keys() for name, found in own.items()} == {name: set() for name in own}
    order = list(TopologicalSorter(shared).static_order())  # CycleError, which names the circle
    assert order[0] == "dom.js" and order[-1] == "app.js"


def imported(path):
    return {name for name in re.findall(r'^import [^;]*from "\./([\w.]+)";', path.read_text(), re.MULTILINE)}
