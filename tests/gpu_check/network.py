"""svd.yaml's own network: what a step of it takes, beside what the plan says; the probe; running out; LoRA."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tests.gpu_check.rows import Row
from tests.gpu_check.setting import SIZES, Setting, Step, gb
from video_model.config import TrainConfig
from video_model.memory import OutOfMemory
from video_model.training import loop
from video_model.training.planning.cards import Machine, here
from video_model.training.planning.outlines import Outlines
from video_model.training.planning.plan import FRAGMENTS, _Planner
from video_model.training.planning.probe import Probe

BATCH = 64  # of a worker, into which a probe and a plan fit as many rows at once as they can
NEAR = 0.15  # of a plan to what is measured
BESIDE = ("libraries", "codec and text encoder")  # in a plan, and not among the tensors of a step
LORA = {"start": "weights/stable-video-diffusion/unet", "lora": {"rank": 16}}  # read by nobody here


class Held:
    """What the checks of this file share, as long as the process lives: the plans, and the network."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.machine = setting, here("bfloat16")
        self.config = setting.svd()
        tree = self.config.model_dump()
        self.lora = TrainConfig.model_validate(tree | LORA | {"stages": {"hq": tree["stages"]["hq"]}})
        # Where all is small a start of three processes takes longer than the plans
        self.pool: Executor = ThreadPoolExecutor(1) if setting.small else ProcessPoolExecutor(3, get_context("spawn"))
        self.plans: dict[str, Future[dict[str, Any]]] = {}
        for key, config, name in (
            ("video_large", self.config, "video_large"), ("hq", self.config, "hq"), ("lora", self.lora, "hq"),
        ):  # fmt: skip
            if key != "hq" or not setting.small:
                self.submit(key, config, name)
        self.plans.setdefault("hq", self.plans["video_large"])  # where all is small the two are of one size
        self._step: Step | None = None
        self.trained = "all"

    def submit(self, key: str, config: TrainConfig, name: str) -> None:
        self.plans[key] = self.pool.submit(
            planned, config.model_dump_json(), name, self.machine, 2 if self.setting.small else BATCH
        )

    def plan(self, key: str) -> dict[str, Any]:
        return self.plans[key].result()

    def step(self) -> Step:
        """The network with all that training needs; where the card has no room for it, the temporal layers alone learn."""
        if self._step is None:
            config = self.config
            if self.setting.gpu and self.plan("video_large")["peak"] > self.machine.gb * 1e9:
                config, self.trained = (
                    self.setting.svd(*(f"stages.{name}.train=temporal" for name in SIZES)),
                    "temporal",
                )
                for name in SIZES:
                    self.submit(name, config, name)
            self._step = Step(self.setting, config, "hq")
        return self._step

    def drop(self) -> None:
        self._step = None
        gc.collect()
        self.setting.reset_peak()


HELD: dict[str, Held] = {}


def held(setting: Setting) -> Held:
    if setting.device not in HELD:
        HELD[setting.device] = Held(setting)
    return HELD[setting.device]


def planned(config: str, name: str, machine: Machine, batch: int) -> dict[str, Any]:
    """most_rows; and for 1 and so many rows at once the bytes of tensors that a step in several passes takes at its peak,
    flops of a row, peak of all. In a process of its own, while the GPU works."""
    read = TrainConfig.model_validate_json(config)
    found = read.model_copy(update={"stages": {name: read.stages[name].model_copy(update={"batch": batch})}})
    planner = _Planner(found, name, Outlines.of(found), machine, 0.4)
    room = machine.gb * 1e9 - sum(planner.memory(0, 2).values())
    most = planner.step.most_rows(int(room / planner.slack), planner.share)
    memory = planner.memory(1, 2)
    peak = sum(memory.values()) - min(memory["activations"], memory["optimizer's step"])
    at = {rows: _tensors(planner, rows, machine) for rows in {1, max(1, most)}}
    return {
        "most": most,
        "tensors": at,
        "flops": planner.step.flops,
        "peak": peak,
        "parameters": planner.step.parameters,
    }


def _tensors(planner: _Planner, rows: int, machine: Machine) -> float:
    """Bytes of tensors at the peak of a step, without what an allocator wastes."""
    parts = {key: value for key, value in planner.memory(rows, 2).items() if key not in BESIDE}
    passing, update = parts.pop("activations") / (1 + FRAGMENTS[machine.kind]), parts.pop("optimizer's step")
    return sum(parts.values()) + max(passing, update)


def steps(setting: Setting) -> Iterator[Row]:
    """Steps at two sizes with one row at once, and with as many as the plan says fit."""
    shared = held(setting)
    step = shared.step()
    for name in SIZES:
        yield _measured(shared, step, name, 1)
    most = shared.plan("hq")["most"]
    if most > 1:
        yield _measured(shared, step, "hq", most)


def _measured(shared: Held, step: Step, name: str, rows: int, key: str | None = None) -> Row:
    """A step in two passes of so many rows: peak of memory, seconds, share of the card's peak."""
    setting, batch = shared.setting, step.batch(2 * rows, name)
    step.state.micro_batch = rows
    setting.reset_peak()
    _, seconds = step.timed(batch, steps=1 if setting.small or rows > 1 else 3)
    (tensors, reserved), plan = setting.peak(), shared.plan(key or name)
    expected = plan["tensors"][rows]
    flops = 2 * rows * plan["flops"]
    share = flops / seconds / (shared.machine.tflops * 1e12)
    frames, height, width = (step.batch(1, name)["latents"].shape[i] for i in (1, 3, 4))
    trained = "LoRA" if step.config.lora else shared.trained
    what = f"step, {frames}x{height * step.outlines.factor}x{width * step.outlines.factor}, {rows} at once, trained: {trained}"
    figure = (
        f"{gb(tensors)} of tensors ({gb(reserved)} reserved), {seconds:.2f} s for {2 * rows} rows, {share:.0%} of peak "
        f"({flops / 1e12:.0f} TFLOP)"
    )
    near = abs(tensors / expected - 1) < NEAR if tensors else None
    why = "" if near is not False else f"planned {expected / tensors:.2f} times what was measured"
    return Row(what, figure, f"{gb(expected)} planned, within {NEAR:.0%}", near, why)


def probe(setting: Setting) -> Iterator[Row]:
    """`micro_batch: probe`; then more rows than fit; then on."""
    shared = held(setting)
    step = shared.step()
    models: Any = type(
        "Models", (), {"codec": type("", (), {"channels": step.outlines.channels}), "encoder": step.outlines.text}
    )
    changed = {"hq": step.stage.model_copy(update={"batch": 2 if setting.small else BATCH})}
    config = step.config.model_copy(update={"stages": step.config.stages | changed})
    found: list[int] = []
    took = setting.seconds(lambda: found.append(Probe(config, "hq", models)(step.state)))
    rows, most = found[0], shared.plan("hq")["most"]
    step.state.micro_batch = rows
    setting.reset_peak()
    step.take(step.batch(2 * rows))
    yield Row(
        "probe",
        f"{rows} rows at once, found in {took:.1f} s; a step with them takes {gb(setting.peak()[1])}",
        f"the plan: {most}",
        rows >= 1,
    )
    yield _ran_out(setting, step, 4 * (max(rows, most) + 1) if setting.gpu else 2)


def _ran_out(setting: Setting, step: Step, rows: int) -> Row:
    """So many rows in one pass, by the step of the training loop; then a step that fits. On a CPU by a hook that asks for
    2^50 bytes."""
    step.state.micro_batch = None
    hook = None if setting.gpu else step.state.network.register_forward_pre_hook(lambda *_: torch.empty(2**50))
    before = setting.allocated()
    with tempfile.TemporaryDirectory() as folder:
        task = loop.StageTask(
            "hq", step.stage, step.config.loop, 0, Path(folder), Path(folder), step.state.network, step.conditioner,
            step.config.denoiser, None, step.state.worker,
        )  # fmt: skip
        said = ""
        try:
            loop._step(task, step.state, step.done, step.batch(rows))
        except OutOfMemory as error:
            said = str(error)
    if hook:
        hook.remove()
    step.state.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    setting.reset_peak()
    left = setting.allocated() - before
    step.state.micro_batch = 1
    step.take(step.batch(1))
    name = f"{rows} rows in one pass, then a step of one"
    ok = (
        said.startswith("out of memory: the forward and backward pass of stage hq")
        and "\n" not in said
        and abs(left) < 0.2e9
    )
    figure = f"{said[:70]} ...; {left / 1e9:.2f} GB left over; the step was taken" if said else "all fitted"
    return Row(name, figure, "one line, nothing left over, training goes on", ok)


def lora(setting: Setting) -> Iterator[Row]:
    """A LoRA step at the largest size: whether it fits 24 GB."""
    shared = held(setting)
    shared.drop()
    step = Step(setting, shared.lora, "hq")
    yield _measured(shared, step, "hq", 1, "lora")
    reserved = setting.peak()[1]
    if reserved:
        yield Row(
            "LoRA on a GPU of 24 GB",
            f"{gb(reserved + 1.2e9)} with CUDA's own",
            "24 GB at most",
            reserved + 1.2e9 < 24e9,
        )
