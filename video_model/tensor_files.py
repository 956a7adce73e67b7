"""Named tensors on disk, whole or in shards: safetensors files that are written and read a piece at a time.

A tensor that is spread over processes (a DTensor) is written by each as the piece that it holds; the header says of which
whole, and from where on: `"shards": {name: [shape, offset]}`. Any region can be read back, by any number of processes. No more
than one tensor is in memory beside what is saved or asked for. (torch.distributed.checkpoint's writer of safetensors builds
the file in memory, pickles its plans for the other processes, and cannot read a shard of a tensor without dimensions.)
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
Place = tuple[tuple[int, ...], tuple[int, ...]]  # where a piece begins in the whole, and its sizes


def place_of(value: Tensor) -> Place:
    """Of the piece of a tensor that this process holds: the whole, where it is not spread."""
    if not isinstance(value, DTensor):
        return (0,) * value.ndim, tuple(value.shape)
    offset, sizes = [0] * value.ndim, list(value.shape)
    for axis, placement in enumerate(value.placements):
        if isinstance(placement, Shard):  # as torch.chunk divides
            world, rank = value.device_mesh.size(axis), value.device_mesh.get_local_rank(axis)
            each = -(-sizes[placement.dim] // world)
            first = min(rank * each, sizes[placement.dim])
            offset[placement.dim] += first
            sizes[placement.dim] = min(each, sizes[placement.dim] - first)
    return tuple(offset), tuple(sizes)


def piece_of(value: Tensor) -> Tensor:
    """The piece of a tensor that this process holds."""
    return value.to_local() if isinstance(value, DTensor) else value


class Piece(NamedTuple):
    """What this process holds of a tensor. whole: shape of a tensor that is spread, and where in it the piece begins."""

    tensor: Tensor
    whole: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def pieces_of(tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
    """What this process holds of some tensors, which may be nothing of some."""
    held = {name: value for name, value in tensors.items() if not value.numel() or math.prod(place_of(value)[1])}
    return {
        name: Piece(piece_of(value), (tuple(value.shape), place_of(value)[0]) if isinstance(value, DTensor) else None)
        for name, value in held.items()
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the pieces that this process holds. Raises OSError."""
    write_pieces(path, pieces_of(tensors))


def write_pieces(path: Path, pieces: Mapping[str, Piece]) -> None:
    """Raises OSError."""
    header: dict[str, Any] = {}
    shards: dict[str, Any] = {}
    end = 0
    for name, (piece, whole) in pieces.items():
        start = end
        end += piece.numel() * piece.element_size()
        header[name] = {"dtype": TYPES[piece.dtype], "shape": list(piece.shape), "data_offsets": [start, end]}
        if whole:
            shards[name] = [list(whole[0]), list(whole[1])]
    if shards:
        header["__metadata__"] = {"shards": json.dumps(shards)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for piece, _ in pieces.values():
            plain = piece.detach().cpu().contiguous()
            if plain.numel():
                stream.write(plain.reshape(-1).view(torch.uint8).numpy().data)


class TensorFiles:
    """The tensors of some files, each read when it is asked for. Raises OSError, SafetensorError, ValueError.

    shapes: of the whole tensors, by name.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[str, list[tuple[Any, Place]]] = {}
        for path in paths:
            file = safe_open(path, framework="pt")
            shards = json.loads((file.metadata() or {}).get("shards", "{}"))
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                sizes = tuple(file.get_slice(name).get_shape())
                shape, offset = shards.get(name, [sizes, (0,) * len(sizes)])
                self.shapes[name] = tuple(shape)
                self._pieces.setdefault(name, []).append((file, (tuple(offset), sizes)))
        for name, shape in self.shapes.items():
            there = sum(math.prod(sizes) for _, (_, sizes) in self._pieces[name])
            if there != math.prod(shape):
                raise ValueError(f"{name} has {there} of {math.prod(shape)} values: the shard of a worker is missing")

    def read(self, name: str, place: Place | None = None) -> Tensor:
        """A tensor, or the piece of it at a place. Raises KeyError for a name that is not there."""
        offset, sizes = place or ((0,) * len(self.shapes[name]), self.shapes[name])
        found: Tensor | None = None
        for file, (start, held) in self._pieces[name]:
            if (start, held) == (offset, sizes):
                return file.get_tensor(name)
            into, out = _overlap(start, held, offset, sizes)
            if into is None:
                continue
            part = file.get_slice(name)[out]
            found = torch.empty(sizes, dtype=part.dtype) if found is None else found
            found[into] = part
        if found is None:  # a piece without values
            file, _ = self._pieces[name][0]
            return torch.empty(sizes, dtype=file.get_slice(name)[:0].dtype)
        return found


def _overlap(
    start: Sequence[int], held: Sequence[int], offset: Sequence[int], sizes: Sequence[int]
) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """What a piece on disk and a place have in common: as slices of the place, and of the piece; None: nothing."""
    first = [max(a, b) for a, b in zip(start, offset, strict=True)]
    last = [min(a + n, b + m) for a, n, b, m in zip(start, held, offset, sizes, strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return None, ()
    within = [tuple(slice(a - o, b - o) for a, b, o in zip(first, last, at, strict=True)) for at in (offset, start)]
    return within[0], within[1]
