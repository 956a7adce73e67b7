"""The page in a real Chromium: what a person does, and what hostile data may not do."""

import json
import shlex
import shutil
from types import SimpleNamespace

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.dataset.dataset import Dataset
from tests.pipelines.inspector import data
from tests.pipelines.inspector.browser import NoBrowser, launched
from tests.pipelines.inspector.conftest import serving


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    data.make(folder / "annotated")
    with serving(folder / "annotated", folder / "cache") as server:
        yield folder, server


@pytest.fixture(scope="module")
def context(browser):
    """One for all, so that the page's modules are fetched and compiled once."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    yield context
    context.close()


@pytest.fixture
def page(context, place):
    """The page, loaded; at the end no error may have been logged, nothing asked of another host, no markup made."""
    page = context.new_page()
    errors, asked, statuses = [], [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda response: statuses.append(response.status) if response.status >= 400 else None)
    page.on("dialog", lambda dialog: errors.append(f"dialog {dialog.message}"))
    page.goto(place[1].address)
    page.wait_for_selector(".tile")
    yield page
    assert not errors and not statuses
    assert all(url.startswith(place[1].address) for url in asked)
    assert page.evaluate("document.querySelectorAll('img[onerror], img[src=x], script:not([src])').length") == 0
    assert page.title() != "1"
    page.close()


def count(page):
    return int(page.locator("#clips-kept").get_attribute("data-count"))


def settled(page, wanted):
    page.wait_for_function("n => document.querySelector('#clips-kept')?.dataset.count === String(n)", arg=wanted)


def answered(page):
    """All that was asked of the server has been drawn."""
    until(page, "import('/page/state.js').then((m) => !m.state.busy)")


def until(page, promise):
    """Until what the promise gives is true."""
    for _ in range(1500):
        if page.evaluate(promise):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never true: {promise}")


ADD = "(sql) => import('/page/state.js').then((m) => (m.state.filters.push({ kind: 'where', sql }), m.changed()))"


def sql(root, condition):
    return (
        duckdb.connect().execute(f"SELECT count(*) FROM {Dataset(root).clips_sql} WHERE {condition}").fetchall()[0][0]
    )


def grip(page, score, side):
    return page.locator(f'.histogram[data-score="{score}"] .handle.{side} .grip')


def drag(page, score, side, share):
    """Drag a handle to a place along its histogram."""
    handle = grip(page, score, side)
    handle.scroll_into_view_if_needed()
    chart = page.locator(f'.histogram[data-score="{score}"] .chart').bounding_box()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(chart["x"] + share * chart["width"], box["y"] + 20, steps=6)
    page.mouse.up()


def filters(page):
    return page.evaluate("import('/page/state.js').then((m) => m.asked())")


def where(asked):
    return " AND ".join(f"{f['column']} {'>=' if f['kind'] == 'min' else '<='} {f['amount']!r}" for f in asked)


def test_first_page(page, place):
    folder, _ = place
    threshold = sql_value(folder / "annotated", "quantile_cont(technical_quality, 0.75)")
    kept = sql(folder / "annotated", f"motion_score >= 2 AND technical_quality <= {threshold!r}")
    assert count(page) == kept and page.locator("#hours-in").inner_text() == "19.2 s"
    assert page.locator(".tile").count() == kept
    funnel = page.locator("#funnel .step").all_inner_texts()
    assert len(funnel) == 3 and "motion_score ≥ 2" in funnel[1] and "1 null" in funnel[1] and "highest 25%" in funnel[2]
    for text in ("Failures by reason", data.MARKUP, "Time by stage", "Footage by resolution", "160 × 96", "25.0 fps"):
        assert text in page.locator("#facts").inner_text()
    assert "no model for it ran" in page.locator(".nothing").text_content()


def sql_value(root, expression):
    return duckdb.connect().execute(f"SELECT {expression} FROM {Dataset(root).clips_sql}").fetchall()[0][0]


def test_dragging_a_handle(page, place):
    folder, _ = place
    page.get_by_role("button", name="clear").click()
    settled(page, 20)
    drag(page, "motion_score", "low", 0.45)
    page.wait_for_function("() => document.querySelector('#clips-kept').dataset.count !== '20'")
    answered(page)
    (one,) = filters(page)
    assert one["kind"] == "min" and one["column"] == "motion_score" and 3 < one["amount"] < 6
    assert count(page) == sql(folder / "annotated", where([one])) == page.locator(".tile").count()
    assert "motion_score ≥" in page.locator("#funnel").inner_text()
    bins = page.locator('.histogram[data-score="motion_score"] path.kept').get_attribute("d")
    drag(page, "text_area", "high", 0.6)
    answered(page)
    both = filters(page)
    settled(page, sql(folder / "annotated", where(both)))
    assert (
        both[1]["kind"] == "max"
        and page.locator('.histogram[data-score="motion_score"] path.kept').get_attribute("d") != bins
    )
    drag(page, "text_area", "high", 1.2)  # to the edge: no filter any more
    settled(page, sql(folder / "annotated", where([one])))
    grip(page, "motion_score", "low").focus()
    page.keyboard.press("ArrowRight")
    answered(page)
    moved = filters(page)
    assert moved[0]["amount"] > one["amount"] and count(page) == sql(folder / "annotated", where(moved))
    page.keyboard.press("%")
    until(page, "import('/page/state.js').then((m) => m.asked()[0].kind === 'drop_bottom')")
    page.locator("#funnel h2").click()
    page.keyboard.press("u")
    page.keyboard.press("u")
    answered(page)
    assert filters(page) == [one]


def test_a_number_can_be_typed(page, place):
    page.get_by_role("button", name="clear").click()
    settled(page, 20)
    grip(page, "similarity_merged", "low").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("0.25")
    page.keyboard.press("Enter")
    settled(page, sql(place[0] / "annotated", "similarity_merged >= 0.25"))
    assert filters(page) == [{"kind": "min", "column": "similarity_merged", "amount": 0.25}]


def test_opening_and_playing_a_clip(page):
    page.locator("#funnel").get_by_role("button", name="clear").click()
    settled(page, 20)
    page.locator(f'.tile[data-id="{data.clip_id(0, 0)}"]').click()
    page.wait_for_selector("#clip .film .lane")
    page.wait_for_function(
        "() => document.querySelector('#player').currentTime > 0.2 && document.querySelector('#player').videoWidth === 160"
    )
    text = page.locator("#clip").inner_text()
    assert data.MARKUP in text and data.HOSTILE_NAME in text and "percent of the shorter side per second" in text
    assert page.locator("#clip .clips button").count() == 5 and page.locator("#clip .shots i").count() == 1
    assert page.locator("#clip .flow polyline").get_attribute("points").count(",") == 8
    page.keyboard.press("ArrowRight")
    page.wait_for_function("id => document.querySelector('#clip code').textContent === id", arg=data.clip_id(0, 1))
    page.keyboard.press("Escape")
    assert not page.locator("#clip").is_visible()
    page.locator(".tile").nth(3).hover()
    page.wait_for_selector(".tile video.on")
    page.wait_for_function("() => document.querySelector('.tile video').currentTime > 0.1")


def test_both_sides_of_a_threshold(page):
    page.keyboard.press("n")
    page.wait_for_selector(".sides .tile")
    below, above = page.locator(".sides .side").all()
    assert "dropped" in below.locator("h3").inner_text() and "kept" in above.locator("h3").inner_text()
    values = [float(text) for text in above.locator(".value").all_inner_texts()]
    assert values == sorted(values) and values[0] >= 2
    page.keyboard.press("d")
    page.wait_for_selector(".tiles .tile.dropped .badge")


def test_finding(page):
    def find(mode, text):
        page.select_option("#find-mode", mode)
        page.fill("#find", text)
        page.keyboard.press("Enter")
        answered(page)

    page.locator("#funnel").get_by_role("button", name="clear").click()
    settled(page, 20)
    find("words", "DOG clip")
    page.wait_for_function("() => document.querySelector('#grid-total').textContent === '8 clips'")
    find("where", "motion_score > 6")
    page.wait_for_function("() => document.querySelector('#grid-total').textContent === '3 clips'")
    find("where", "motion_scor > 6")
    page.wait_for_function("() => document.querySelector('.tiles').textContent.includes('did you mean motion_score')")
    find("where", "")
    page.get_by_role("button", name="+ filter").click()
    settled(page, 8)
    page.keyboard.press("Escape")
    page.locator(".tile").first.click()
    page.get_by_role("button", name="clips like this one").click()
    page.wait_for_function("() => document.querySelector('.tile .value').textContent === '1'")


def test_the_command_is_what_the_page_shows(page, place, monkeypatch):
    folder, _ = place
    drag(page, "motion_score", "low", 0.55)
    answered(page)
    shown = sorted(element.get_attribute("data-id") for element in page.locator(".tile").all())
    page.keyboard.press("t")
    page.wait_for_selector("#command")
    page.fill("#out", "copied")
    page.keyboard.press("Tab")
    page.wait_for_function("() => document.querySelector('#command').textContent.includes('copied')")
    assert page.locator("#take .wrong").count() == 0 and "null" not in page.locator("#take").inner_text()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-command")
    page.wait_for_selector("#toast.shown")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert words[:2] == ["winnow", "select"] and count(page) == len(shown) > 0
    monkeypatch.setattr("pipelines.curated.card.card.plot_scores", lambda *_: [])  # pictures take longest
    monkeypatch.setattr("pipelines.curated.card.card.contact_sheet", lambda *_: False)
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    made = pq.read_table(folder / "copied" / "data", columns=["clip_id"])["clip_id"].to_pylist()
    assert sorted(made) == shown
    page.click("#run")  # the same folder and selection: there already
    page.wait_for_selector("#progress .done", timeout=60_000)
    assert "Was there already" in page.locator("#progress").inner_text()
    page.keyboard.press("Escape")
    page.evaluate(ADD, "motion_scor > 2")
    answered(page)
    page.keyboard.press("t")
    page.wait_for_selector("#take .wrong")
    assert "did you mean motion_score" in page.locator("#take .wrong").inner_text()
    assert page.locator("#command").inner_text().startswith("# without 1 filter of the page")


def test_labels_that_select_does_not_see(browser, place, tmp_path):
    """A curated dataset whose annotated one is gone."""
    curated = shutil.copytree(place[0] / "copied", tmp_path / "curated")
    made = json.loads((curated / "selection.json").read_text())
    made["dataset"]["path"] = "/nothing/annotated"
    (curated / "selection.json").write_text(json.dumps(made))
    with serving(curated, tmp_path / "cache") as server:
        clip = server.post("/api/view", {"page": {}})["grid"]["rows"][0]["id"]
        server.post("/api/label", {"clip": clip, "label": "good"})
        page = browser.new_page()
        page.goto(server.address)
        page.wait_for_selector(".tile")
        page.evaluate(ADD, "label = 'good'")
        settled(page, 1)
        page.keyboard.press("t")
        page.wait_for_selector("#take .wrong")
        assert "/nothing/annotated is not there" in page.locator("#take").inner_text()
        assert page.locator("#command").count() == 0
        page.close()


SLOW_LABEL = """() => {
  const real = window.fetch;
  let slow = true;
  window.fetch = async (path, ...rest) => {
    const waits = slow && path === "/api/label";
    slow = slow && !waits;
    if (waits) await new Promise((done) => setTimeout(done, 500));
    return real(path, ...rest);
  };
}"""  # the next label is half a second on its way: one given after it must not overtake it


def test_labels(page, place):
    folder, _ = place
    page.locator("#funnel").get_by_role("button", name="clear").click()
    settled(page, 20)
    page.locator(f'.tile[data-id="{data.clip_id(3, 3)}"]').focus()
    page.keyboard.press("g")
    page.wait_for_selector(f'.tile[data-id="{data.clip_id(3, 3)}"] .mark.good')
    page.evaluate(SLOW_LABEL)
    page.locator(f'.tile[data-id="{data.clip_id(1, 1)}"]').focus()
    page.keyboard.press("g")
    page.keyboard.press("Enter")  # opened before the label has reached the server
    page.wait_for_selector('#clip [data-label="good"].on')
    page.locator('#clip [data-label="good"]').click()  # and taken back
    page.wait_for_selector('#clip [data-label="good"]:not(.on)')
    page.keyboard.press("Escape")
    page.locator(f'.tile[data-id="{data.clip_id(0, 1)}"]').click()
    page.wait_for_selector("#clip .film .lane")
    page.evaluate(SLOW_LABEL)
    page.fill("#note", data.MARKUP)
    page.keyboard.press("Tab")
    page.locator('#clip [data-label="bad"]').click()
    page.wait_for_selector('#clip [data-label="bad"].on')
    page.keyboard.press("Escape")
    page.locator("#funnel h2").click()
    page.keyboard.press("l")
    page.wait_for_selector("#labels table")
    assert "1 good, 1 bad" in page.locator("#labels").inner_text()
    page.locator("#labels").get_by_role("button", name="use").first.click()
    page.wait_for_function("() => document.querySelector('#clips-kept').dataset.count !== '20'")
    lines = [json.loads(line) for line in (folder / "annotated" / "labels.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == ["good", "good", None, None, "bad"] and lines[-1]["note"] == data.MARKUP


def test_keyboard_sheet_and_themes(page):
    page.keyboard.press("?")
    assert "just below and just above" in page.locator("#keys").inner_text()
    page.keyboard.press("Escape")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("m")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    page.wait_for_selector(".tile")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.evaluate("localStorage.clear()")


def test_filters_stay_in_the_address(page, place):
    page.locator("#funnel").get_by_role("button", name="clear").click()
    settled(page, 20)
    page.reload()
    page.wait_for_selector(".tile")
    settled(page, 20)
    page.goto(place[1].address + "#not json")
    page.reload()
    page.wait_for_selector(".tile")
    assert len(filters(page)) == 2


@pytest.mark.parametrize("width", [1280, 2560])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 720 if width == 1280 else 1440})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".tile").first.is_visible() and page.locator(".histogram").first.is_visible()


def test_a_dataset_that_grows_and_one_that_is_wrong(browser, tmp_path):
    root = tmp_path / "annotated"
    root.mkdir()
    with serving(root, tmp_path / "cache") as server:
        page = browser.new_page()
        page.add_init_script("const wait = setTimeout; window.setTimeout = (call, ms) => wait(call, ms / 20)")
        page.goto(server.address)
        page.wait_for_selector("#wrong")
        assert "no dataset.json" in page.locator("#wrong").inner_text()
        data.make(root, videos=1)
        page.get_by_role("button", name="Look again").click()
        page.wait_for_selector(".tile")
        assert "in · 5 clips" in page.locator("#headline").inner_text()
        data.add(root, [1])
        page.wait_for_selector("#news:not([hidden])", timeout=15_000)
        page.click("#news")
        page.wait_for_function("() => document.querySelector('#headline').textContent.includes('in · 10 clips')")
        page.close()


def test_the_policy_holds(browser, place):
    """Inline code and other hosts are refused by the browser itself."""
    page = browser.new_page()
    page.goto(place[1].address)
    blocked = page.evaluate(
        """async () => {
          const found = [];
          document.addEventListener('securitypolicyviolation', (event) => found.push(event.effectiveDirective));
          const script = document.createElement('script');
          script.textContent = 'document.title = 1';
          const style = document.createElement('div');
          style.setAttribute('style', 'color: red');
          document.body.append(script, style);
          await fetch('http://127.0.0.1:9/').catch(() => {});
          await new Promise((done) => setTimeout(done, 100));
          return [...new Set(found)].sort();
        }"""
    )
    assert blocked == ["connect-src", "script-src-elem", "style-src-attr"] and page.title() != "1"
    page.close()


def test_a_token_opens_the_page_once_and_for_all(browser, place, tmp_path):
    with serving(place[0] / "annotated", tmp_path, token="the-token") as server:
        context = browser.new_context()
        page = context.new_page()
        assert page.goto(server.address).status == 401
        page.goto(f"{server.address}?token=the-token")
        page.wait_for_selector(".tile")
        assert page.url.partition("#")[0] == server.address  # the token does not stay in the address
        page.reload()
        page.wait_for_selector(".tile")
        context.close()


def test_without_a_browser_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    nowhere = SimpleNamespace(chromium=SimpleNamespace(executable_path="/nothing/chromium"))
    with pytest.raises(NoBrowser, match="apt-get install chromium"), launched(nowhere):
        pass
