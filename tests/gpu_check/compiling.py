"""`compile: blocks` against plain steps, and weights that are spread over one GPU against whole ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import distributed as dist

from tests.gpu_check.rows import Row
from tests.gpu_check.setting import OUTER, Setting, Step, gb
from video_model.training.steps import state
from video_model.training.storage.saving import Saver
from video_model.workers import TrainingWorker

NAME = "video_large"
ROUNDING = 0.02  # of a loss in bfloat16
SHOWN = "svd's two outer levels, 320x576"


def compiling(setting: Setting) -> Iterator[Row]:
    """Losses from the same weights; the first step's time is that of compiling."""
    seconds, losses, first = {}, {}, {}
    for how in ("false", "blocks"):
        step = _step(setting, f"loop.compile={how}")
        batch = step.batch(2)
        losses[how] = []
        first[how] = setting.seconds(lambda step=step, batch=batch, how=how: losses[how].append(step.take(batch)))
        took = [
            setting.seconds(lambda s=step, b=batch, h=how: losses[h].append(s.take(b)))
            for _ in range(1 if setting.small else 3)
        ]
        seconds[how] = sorted(took)[len(took) // 2]
        del step
        gc.collect()
        setting.reset_peak()
    ratio = seconds["blocks"] / seconds["false"]
    figure = (
        f"first step {first['blocks']:.0f} s (plain {first['false']:.1f} s), later {seconds['blocks']:.3f} s "
        f"(plain {seconds['false']:.3f} s): {ratio:.2f} times"
    )
    yield Row(f"compile: blocks, {SHOWN}", figure, "quicker than plain", ratio < 1 if setting.gpu else None)
    yield _alike("its losses", losses["blocks"], losses["false"])


def _step(setting: Setting, *overrides: str, worker: TrainingWorker | None = None) -> Step:
    with _plain_backend(setting):
        return Step(setting, setting.svd(*OUTER, *overrides), NAME, worker)


@contextmanager
def _plain_backend(setting: Setting) -> Iterator[None]:
    """Where all is small, nothing is generated: inductor takes minutes on a CPU."""
    usual: Callable = state.compiled
    if setting.small:
        state.compiled = partial(usual, backend="eager")
    try:
        yield
    finally:
        state.compiled = usual


def _alike(name: str, found: list[float], expected: list[float]) -> Row:
    worst = max(abs(a / b - 1) for a, b in zip(found, expected, strict=True))
    told = " ".join(f"{value:.4f}" for value in found)
    return Row(name, f"{told}; {worst:.1e} off", f"within {ROUNDING:.0%}", worst < ROUNDING)


class Alone(TrainingWorker):
    """One worker whose weights are spread nevertheless, as those of several are."""

    @property
    def several(self) -> bool:
        return True


def spreading(setting: Setting) -> Iterator[Row]:
    """strategy: fsdp with a group of one: losses, memory, a checkpoint in shards and back."""
    plain, figures = _steps(setting, _step(setting))
    store = f"file://{setting.folder / 'store'}"
    dist.init_process_group("nccl" if setting.gpu else "gloo", init_method=store, rank=0, world_size=1)
    try:
        worker = Alone(0, 1, setting.place)
        step = _step(setting, "loop.strategy=fsdp", worker=worker)
        spread, spread_figures = _steps(setting, step)
        kind = type(next(step.state.network.parameters())).__name__
        figure = f"{kind}; {spread_figures} (ddp {figures})"
        yield Row(f"fsdp on one device, {SHOWN}", figure, "DTensor", kind == "DTensor")
        yield _alike("its losses in two steps, of ddp's", spread, plain)
        saver = Saver(setting.folder / "sharded", 9, worker)
        saved = step.state.save(saver, step.done, {})
        saver.finish()
        expected = step.take(step.batch(2))
        other = _step(setting, "loop.strategy=fsdp", "seed=1", worker=worker)
        other.take(other.batch(1))
        other.state.load(saved)
        other.done = saved.step
        files = sorted(path.name for path in saved.path.glob("network-*"))
        again = other.take(other.batch(2))
        near = abs(again / expected - 1) < 1e-3 and files == ["network-00000-of-00001.safetensors"]
        yield Row(
            "its checkpoint in shards, loaded", f"the next step's loss {again:.5f}, was {expected:.5f}", "1e-3", near
        )
    finally:
        dist.destroy_process_group()


def _steps(setting: Setting, step: Step) -> tuple[list[float], str]:
    """Two steps: their losses, and what they take."""
    setting.reset_peak()
    batch, losses = step.batch(2), list[float]()
    took = [setting.seconds(lambda: losses.append(step.take(batch))) for _ in range(2)]
    return losses, f"{took[1]:.2f} s, {gb(setting.peak()[0])}"
