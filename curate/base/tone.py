"""HDR to SDR by ITU-R BT.2390's EETF, for PQ and HLG (ITU-R BT.2100).

1. Non-linear R'G'B' to light of a display: PQ's EOTF; for HLG its inverse OETF and the OOTF of a display of 1000 cd/m2
   (gamma 1.2).
2. Each channel through the EETF of BT.2390 (section 5.4.1), in PQ, from a peak of 1000 to one of 203 cd/m2, which is
   diffuse white (BT.2408): light below 91 cd/m2 stays, what is above is rolled off, and 203 becomes 162.
3. BT.2020's primaries to BT.709's (BT.2087), relative to 203 cd/m2, clipped to 0..1.
4. The inverse of BT.1886's EOTF (gamma 2.4) to 8 bits.

So diffuse white is 232 of 255, 18% grey (26 cd/m2) is 108, and 1000 cd/m2 and above are 255. The peak is always
1000, for which most masters are made: with each file's own peak, two clips of one scene would differ.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from curate.base.colour import HLG

__all__ = ["sdr"]

WHITE, PEAK = 203.0, 1000.0  # cd/m2
M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # of PQ
STEPS = 4096  # of each table: 12-bit PQ is below the visible threshold
TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)


def sdr(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """[..., 3] uint8 BT.709 of [..., 3] uint8 or uint16 (of all its bits) R'G'B' with BT.2020's primaries.

    transfer: colour.PQ or colour.HLG.
    """
    codes = rgb >> 4 if rgb.dtype == np.uint16 else rgb.astype(np.uint16) * 257 >> 4
    if transfer == HLG:
        scene = hlg_table()[codes]
        # The OOTF: light of the display is scene light times the scene's luminance to the power 0.2.
        luminance = np.maximum(scene @ BT2020_LUMA, 1e-6)[..., None]
        display = np.minimum(scene * luminance**0.2, 1.0)
        light = root_table()[np.rint(np.sqrt(np.sqrt(display)) * (STEPS - 1)).astype(np.uint16)]
    else:
        light = pq_table()[codes]
    light = np.clip(light @ TO_BT709.T, 0.0, 1.0)
    return gamma_table()[np.rint(np.sqrt(light) * (STEPS - 1)).astype(np.uint16)]


def pq_light(code: np.ndarray) -> np.ndarray:
    """cd/m2 of a PQ code 0..1 (SMPTE ST 2084)."""
    root = np.power(code, 1 / M2)
    return 10000 * np.power(np.maximum(root - C1, 0) / (C2 - C3 * root), 1 / M1)


def pq_code(light: np.ndarray | np.float64) -> np.ndarray:
    """The inverse of `pq_light`."""
    power = np.power(np.maximum(light, 0) / 10000, M1)
    return np.power((C1 + C2 * power) / (1 + C3 * power), M2)


def eetf(code: np.ndarray) -> np.ndarray:
    """PQ code to PQ code, from PEAK to WHITE: BT.2390, section 5.4.1, with no lift of black."""
    peak = float(pq_code(np.float64(PEAK)))
    most = float(pq_code(np.float64(WHITE))) / peak
    knee = 1.5 * most - 0.5
    source = np.minimum(code / peak, 1.0)
    t = np.maximum(source - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return np.where(source < knee, source, spline) * peak


@lru_cache(maxsize=1)
def pq_table() -> np.ndarray:
    """Light relative to WHITE after the EETF, of each 12-bit PQ code."""
    return (pq_light(eetf(np.arange(STEPS) / (STEPS - 1))) / WHITE).astype(np.float32)


@lru_cache(maxsize=1)
def root_table() -> np.ndarray:
    """As `pq_table`, indexed by the fourth root of light relative to PEAK."""
    light = (np.arange(STEPS) / (STEPS - 1)) ** 4 * PEAK
    return (pq_light(eetf(pq_code(light))) / WHITE).astype(np.float32)


@lru_cache(maxsize=1)
def hlg_table() -> np.ndarray:
    """Scene light 0..1 of each 12-bit HLG code: the inverse OETF of BT.2100."""
    code = np.arange(STEPS) / (STEPS - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@lru_cache(maxsize=1)
def gamma_table() -> np.ndarray:
    """8-bit BT.1886 code of the square root of light."""
    return np.rint((np.arange(STEPS) / (STEPS - 1)) ** (2 / 2.4) * 255).astype(np.uint8)
