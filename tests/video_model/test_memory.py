"""Parts of a step, what running out of memory says, and that waiting is told."""

from __future__ import annotations

import time

import pytest
import torch

from tests.video_model.training import RandomBatches, gradients, network, task
from video_model.config import TrainingStage
from video_model.diffusion.conditioning import Conditioner
from video_model.memory import OutOfMemory, is_out_of_memory, memory_for
from video_model.training.journal import read_log
from video_model.training.loop import train_stage
from video_model.training.steps.rows import in_parts, parts_of
from video_model.training.storage import checkpoints

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("rows", "accumulate", "micro_batch", "sizes"),
    [
        (8, 1, None, [8]),
        (8, 4, None, [2, 2, 2, 2]),
        (8, 1, 3, [2, 3, 3]),
        (8, 4, 8, [2, 2, 2, 2]),
        (5, 2, 1, [1] * 5),
        (2, 4, None, [1, 1]),
    ],
)
def test_a_part_has_no_more_rows_than_a_micro_batch(rows, accumulate, micro_batch, sizes):
    batch = {"latents": torch.arange(rows), "keys": list("abcdefgh"[:rows]), "step": 3}
    parts = list(in_parts(batch, parts_of(rows, accumulate, micro_batch)))
    assert [len(part["latents"]) for _, part in parts] == sizes
    assert [first for first, _ in parts] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert torch.cat([part["latents"] for _, part in parts]).tolist() == list(range(rows))
    assert [key for _, part in parts for key in part["keys"]] == batch["keys"] and parts[0][1]["step"] == 3


def test_a_step_is_the_same_whatever_its_micro_batch(tmp_path):
    """With images in the batch, and single frames, which obey it too."""
    batches = RandomBatches(stills=[1], image_batch=6)
    found = {
        rows: gradients(train_stage(task(tmp_path / str(rows), steps=2, micro_batch=rows, batches=batches, lr=1e-8)))
        for rows in (None, 8, 3, 1)
    }
    for rows in (8, 3, 1):
        for name, value in found[None].items():
            torch.testing.assert_close(found[rows][name], value, rtol=1e-5, atol=1e-6, msg=f"{rows} {name}")


def test_a_micro_batch_bounds_every_forward_pass(tmp_path):
    """Of training, of single frames, and of the loss on held-out rows."""
    seen = []
    net = network()
    net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    made = task(tmp_path, steps=2, micro_batch=3, batches=RandomBatches(stills=[1], image_batch=6), net=net)
    rows_at_once = []
    made.evaluate = lambda denoiser, rows: rows_at_once.append(rows) or {}
    train_stage(made)
    assert seen == [2, 3, 3, 3, 3] and rows_at_once == [3]


@pytest.mark.parametrize("micro_batch", [0, -1, "all"])
def test_a_micro_batch_is_a_number_of_rows_or_a_probe(micro_batch):
    with pytest.raises(ValueError, match="micro_batch"):
        TrainingStage(steps=1, micro_batch=micro_batch)


def test_a_slow_conditioner_shows_in_waiting_share(tmp_path):
    """Of a step's time, not only what waiting for latents takes: noise and conditions too."""
    shares = {}
    for name, seconds in (("quick", 0.0), ("slow", 0.05)):
        made = task(tmp_path / name, steps=3, batch=4)

        class Slow(Conditioner):
            def __call__(self, *args, seconds=seconds, **options):
                time.sleep(seconds)
                return super().__call__(*args, **options)

        made.conditioner = Slow(made.conditioner.slots)
        train_stage(made)
        lines = read_log(made.folder / "log.jsonl")
        assert all(line["waiting_share"] * line["step_seconds"] > 4 * seconds for line in lines)
        shares[name] = lines[-1]["waiting_share"]
    assert shares["quick"] < 0.5 < shares["slow"] <= 1


def test_running_out_in_a_step_names_the_pass_and_the_keys_and_keeps_the_checkpoint(tmp_path):
    """A real allocation that fails, of 2^50 bytes on the CPU, in the third step."""
    net, calls = network(), []

    def greedy(module, args):
        calls.append(1)
        if len(calls) == 5:
            torch.empty(2**50, dtype=torch.uint8)

    net.register_forward_pre_hook(greedy)
    made = task(tmp_path, net=net, micro_batch=4)
    with pytest.raises(OutOfMemory) as caught:
        train_stage(made)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "the forward and backward pass of stage video, 4 rows of 3x2x4x4",
        "stages.video.micro_batch lower (now 4)",
        "loop.checkpointing=true (now false)",
        "loop.strategy=fsdp on several GPUs (now ddp)",
        "--resume",
    ):
        assert part in message
    assert checkpoints.latest(made.folder / "checkpoints").step == 2


def test_running_out_elsewhere_names_that_part(tmp_path):
    made = task(tmp_path / "a", steps=1)
    made.evaluate = lambda denoiser, rows: torch.empty(2**50)
    with pytest.raises(OutOfMemory, match=r"held-out clips of stage video: .*micro_batch"):
        train_stage(made)

    def draw(denoiser, step, journal):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    made = task(tmp_path / "b", steps=1)
    made.draw = draw
    with pytest.raises(OutOfMemory, match=r"samples of stage video: .*samples\.count"):
        train_stage(made)
    made = task(tmp_path / "c", steps=1, loop={"strategy": "fsdp", "checkpointing": True})
    made.network.register_forward_pre_hook(lambda module, args: torch.empty(2**50))
    with pytest.raises(OutOfMemory) as caught:
        train_stage(made)
    assert "strategy" not in str(caught.value) and "checkpointing" not in str(caught.value)  # they are set already


def test_other_errors_are_not_taken_for_it():
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="size mismatch"), memory_for("x", "y"):
        raise RuntimeError("size mismatch")
    with pytest.raises(OutOfMemory, match=r"out of memory: encoding latents: lower a\.b, or use c"):  # noqa: SIM117
        with memory_for("encoding latents", "lower a.b", "use c"):
            raise MemoryError
