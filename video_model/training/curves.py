"""The loss on held-out clips by noise level, as numbers out of a log and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

HELD_OUT = "held_out_loss"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 480, 300, 56, 26, 34
OLD, NEW = (170, 190, 215), (20, 70, 160)


def sigma_levels(line: Mapping[str, float]) -> dict[str, float]:
    """Losses of a line of the log by noise level, "0.14 to 0.61", lowest level first."""
    found = {}
    for key, value in line.items():
        if key.startswith(f"{HELD_OUT}/sigma_"):
            low, high = key.removeprefix(f"{HELD_OUT}/sigma_").split("_")
            found[float(low), float(high)] = value
    return {f"{low:g} to {high:g}": found[low, high] for low, high in sorted(found)}


def sigma_picture(lines: Sequence[Mapping[str, float]]) -> np.ndarray:
    """[300, 480, 3] uint8: loss over noise level, a curve an evaluation, the newest dark and with its figures."""
    curves = [(int(line["step"]), sigma_levels(line)) for line in lines if sigma_levels(line)]
    names = list(dict.fromkeys(name for _, curve in curves for name in curve))
    names.sort(key=lambda name: float(name.split()[0]))
    top = max(value for _, curve in curves for value in curve.values()) or 1.0
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    bottom, span = HEIGHT - BOTTOM, (WIDTH - LEFT - 30) / max(len(names) - 1, 1)

    def place(name: str, value: float) -> tuple[float, float]:
        return LEFT + span * names.index(name), bottom - (bottom - TOP) * value / (1.1 * top)

    draw.line([(LEFT, TOP), (LEFT, bottom), (WIDTH - 20, bottom)], fill="grey")
    for share in (0.5, 1.0):
        height = bottom - (bottom - TOP) * share / 1.1
        draw.text((4, height - 6), f"{share * top:.3g}", fill="black")
        draw.line([(LEFT, height), (WIDTH - 20, height)], fill=(235, 235, 235))
    for step, curve in curves:
        newest = step == curves[-1][0]
        points = [place(name, value) for name, value in curve.items()]
        draw.line(points, fill=NEW if newest else OLD, width=3 if newest else 1)
        for name, value in curve.items() if newest else ():
            x, y = place(name, value)
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=NEW)
            draw.text((x - 12, y - 18), f"{value:.3g}", fill=NEW)
    for name in names:
        draw.text((place(name, 0.0)[0] - 20, bottom + 4), name, fill="black")
    draw.text((LEFT, 6), f"loss on held-out clips by sigma, step {curves[-1][0]} (light: before)", fill="black")
    return np.asarray(image)
