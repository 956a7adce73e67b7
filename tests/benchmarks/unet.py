"""A training step of our space-time UNet against diffusers' UNetSpatioTemporalConditionModel of equal width and depth.

    python -m tests.benchmarks.unet [--rounds 5] [--threads 1] [--case NAME ...]

Both have the same parameters, to the number, and the same weights; a step is a forward and a backward pass of a mean
square, in float32 and under bfloat16 autocast. Steps alternate between the two in one process; a cell is the median in
CPU seconds of the process, which other work on the machine disturbs least, and the ratio is that of the medians.

Memory is the peak resident size of a child process during one float32 step of four times the batch, less what it held
before the step (the weights and the libraries): activations, work space, and gradients, which checkpointing cannot spare. `kept` counts the bytes that autograd keeps from the forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from video_model.networks.unet import SpaceTimeUNet
from video_model.public.weights import import_unet

# name: channels, layers, heads, latent side, frames, batch, tokens of text, channels of text
CASES = {
    "tiny: 8x8, 64-128 wide, 16 tokens": ((64, 128), 2, (2, 4), 8, 8, 8, 16, 384),
    "tiny: 16x16, 64-128 wide, 16 tokens": ((64, 128), 1, (2, 4), 16, 8, 4, 16, 384),
    "one image token, as SVD: 16x16, 128-256 wide": ((128, 256), 1, (4, 8), 16, 8, 1, 1, 512),
    "three levels: 16x16, 96-288 wide, 77 tokens": ((96, 192, 288), 1, (3, 6, 9), 16, 8, 1, 77, 512),
}


def networks(case: str) -> tuple[SpaceTimeUNet, torch.nn.Module]:
    """Ours and diffusers', of the same weights."""
    import tempfile

    from diffusers import UNetSpatioTemporalConditionModel

    channels, layers, heads, _, _, _, _, context = CASES[case]
    levels = len(channels)
    torch.manual_seed(0)
    public = UNetSpatioTemporalConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * levels,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * levels,
        num_attention_heads=heads,
        cross_attention_dim=context,
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192,
    )
    with tempfile.TemporaryDirectory() as folder:
        public.save_pretrained(folder)
        ours = import_unet(folder)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in public.parameters())
    return ours, public


def calls(case: str, times: int = 1):
    """Functions that run ours and diffusers' on the same random inputs, `times` the batch."""
    _, _, _, side, frames, batch, tokens, context = CASES[case]
    batch *= times
    x, concat = torch.randn(2, batch, frames, 4, side, side)
    c_noise, text, vectors = torch.randn(batch), torch.randn(batch, tokens, context), torch.rand(batch, 3) * 8
    cond = {"text": text, "concat": concat, "vectors": vectors}
    both = torch.cat([x, concat], 2)

    def ours(network):
        return network(x, c_noise, cond)

    def public(network):
        return network(both, c_noise, text, vectors - torch.tensor([1.0, 0.0, 0.0])).sample

    return ours, public


def step(network: torch.nn.Module, call, half: bool) -> float:
    """CPU seconds of a forward and a backward pass."""
    network.zero_grad(set_to_none=True)
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = call(network)
    out.float().square().mean().backward()
    return time.process_time() - start


def times(case: str, half: bool, rounds: int) -> tuple[float, float]:
    """Median seconds of a step of ours and of diffusers'."""
    pair = list(zip(networks(case), calls(case), strict=True))
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for which, (network, call) in enumerate(pair):
            took = step(network, call, half)
            if turn:  # the first step of each warms up
                seconds[which].append(took)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def kept_bytes(network: torch.nn.Module, call) -> int:
    """Bytes that autograd keeps from the forward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call(network)
    return sum(size for size, _ in kept.values())


def memory(case: str, which: str, checkpointing: bool) -> None:
    """Prints MB at the peak of a step over MB before it, and MB kept; the work of a child process."""
    ours, public = networks(case)
    network, call = (ours, calls(case, 4)[0]) if which == "ours" else (public, calls(case, 4)[1])
    if checkpointing:
        if which == "ours":
            network.checkpointing = True
        else:
            network.enable_gradient_checkpointing()
    before = resident("VmRSS")
    step(network, call, False)
    peak = resident("VmHWM")
    print((peak - before) / 1024, kept_bytes(network, call) / 2**20)


def resident(which: str) -> int:
    """kB this process holds (VmRSS), or held at most (VmHWM; getrusage's would be inherited from the parent)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(which)).split()[1])


def measured(case: str, which: str, checkpointing: bool, threads: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "tests.benchmarks.unet", "--threads", str(threads)]
    command += ["--memory", which, "--case", case, *(["--checkpointing"] if checkpointing else [])]
    rise, kept = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return float(rise), float(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="0: memory alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--memory", choices=["ours", "diffusers"], help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        memory(arguments.case[0], arguments.memory, arguments.checkpointing)
        return

    console = Console(width=130)
    table = Table("case", "precision", "ours, CPU s", "diffusers, CPU s", "ratio", title="A training step")
    for case in arguments.case:
        for half in (False, True) if arguments.rounds else ():
            ours, public = times(case, half, arguments.rounds)
            row = (f"{ours:.3f}", f"{public:.3f}", f"{ours / public:.2f}")
            table.add_row(case, "bfloat16" if half else "float32", *row)
    console.print(table)

    table = Table(
        "case", "network", "peak, MB", "checkpointing", "ratio", "kept, MB", "checkpointing", "ratio", title="Memory"
    )
    for case in arguments.case:
        for which in ("ours", "diffusers"):
            (peak, kept), (low, few) = (measured(case, which, on, arguments.threads) for on in (False, True))
            row = (peak, low, low / peak, kept, few, few / kept)
            table.add_row(case, which, *(f"{value:.2f}" if value < 3 else f"{value:.0f}" for value in row))
    console.print(table)


if __name__ == "__main__":
    main()
