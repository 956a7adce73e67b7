"""The page of a training run, in a browser: curves with the right ends, samples by step, nothing of a hostile run runs."""

import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from PIL import Image

from curate.base.store import store_of
from pipelines.inspector.runs.fetched import FetchedRun
from pipelines.inspector.runs.page import chart, is_run, run_app, stages
from pipelines.inspector.server.guard import Guard, hosts_of
from pipelines.inspector.server.serving import listen

EVIL = "<img src=x onerror=\"document.title='1'\">"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "model"
    folder = root / "stages" / "video"
    (folder / "samples").mkdir(parents=True)
    planned = {"steps": 1000, "frames": [8], "sizes": [[32, 48]]}
    tree = {"stages": {"video": planned, "hq": {}}, "lora": {"rank": 4}, "start": "weights/svd"}
    (root / "config.json").write_text(json.dumps(tree))
    (root / "data.json").write_text(json.dumps({"clips": {"video": {"train": 57, "held_out": 3}}}))
    lines = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in range(1, 41)]
    for step in (20, 40):
        levels = {"held_out_loss/sigma_0_0.14": 0.9, "held_out_loss/sigma_2.7_inf": 10 / step}
        lines.append({"step": step, "held_out_loss": 0.5, **levels})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in (20, 40):
        Image.fromarray(np.full((32, 256, 3), step, np.uint8)).save(folder / "samples" / f"step-{step:08d}-0.png")
    (folder / "samples" / "prompts.json").write_text(json.dumps([EVIL]))
    (folder / "secret.png").write_bytes(b"no sample")
    return root


@contextmanager
def served(root):
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(Guard(run_app(root), hosts=hosts_of("127.0.0.1"), token=None), log_level="warning")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


def test_curves_end_where_the_log_ends():
    found = chart("loss", [("a", [(1, 2.0), (4, 1.0)]), ("none", [])])
    (curve,) = found["curves"]
    assert curve["points"].split()[0] == "130.0,6.0" and curve["points"].split()[-1] == "520.0,78.0"
    assert curve["now"] == "1" and (found["least"], found["most"]) == ("0", "2") and chart("x", [("a", [])]) is None


def test_curves_whose_values_are_near_each_other_are_seen_to_move():
    found = chart("loss", [("a", [(1, 1.039), (2, 1.037)])])
    assert found["curves"][0]["points"] == "260.0,6.0 520.0,150.0" and (found["least"], found["most"]) == (
        "1.037",
        "1.039",
    )


def test_a_run_is_told_from_a_dataset(root, tmp_path):
    assert is_run(root) and not is_run(tmp_path)


def test_a_run_in_a_bucket_is_fetched_but_for_its_checkpoints(root, tmp_path):
    store = store_of("memory://runs/sets/model")
    assert not is_run(store.url)
    for path in root.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(root).as_posix(), path.read_bytes())
    store.put("stages/video/checkpoints/00000040/weights.safetensors", b"large")
    assert is_run(store.url)
    fetched = FetchedRun(store, tmp_path)
    fetched()
    shown = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {
        "stages/video/secret.png"
    }
    assert {p.relative_to(fetched.root).as_posix() for p in fetched.root.rglob("*") if p.is_file()} == shown
    assert fetched.root.name == "model" and [p.name for p in tmp_path.iterdir()] == ["model"]
    (first,) = stages(fetched.root)
    assert first["step"] == 40
    log = store.read("stages/video/log.jsonl") + b'{"step": 41, "loss": 0.1}\n'
    store.replace("stages/video/log.jsonl", log)
    fetched()
    (now,) = stages(fetched.root)
    assert now["step"] == 41


def test_the_page_of_a_run(root, browser):
    with served(root) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        errors = []
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.goto(address)
        assert page.locator("h2").all_inner_texts() == ["video step 40"]
        said = "of 1,000 steps; 8 frames of 32x48 px; 57 clips, 3 held out; LoRA of rank 4; from svd"
        assert page.locator(".facts").inner_text() == said
        titles = page.locator(".charts figcaption").all_inner_texts()
        assert titles == ["loss in training", "held-out loss", "learning rate", "held-out loss by noise level (sigma)"]
        levels = page.locator("figure", has_text="noise level").locator(".names span").all_inner_texts()
        assert levels == ["0 to 0.14: 0.9 to 0.9", "2.7 to inf: 0.5 to 0.25"]
        assert page.locator("svg polyline").count() == 5
        assert page.locator("h3").all_inner_texts() == ["samples at step 40", "samples at step 20"]
        assert page.locator(".strip img").first.evaluate("i => i.decode().then(() => i.naturalWidth)") == 256
        assert page.locator(".strip figcaption").first.inner_text() == EVIL and page.title() == "model · Winnow"
        assert not errors and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for path in (
            "sample/video/..%2Fsecret.png",
            "sample/video/secret.png",
            "sample/hq/step-00000020-0.png",
            "sample/x/y",
        ):
            assert page.request.get(address + path).status == 404
        page.close()
