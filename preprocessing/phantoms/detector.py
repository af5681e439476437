"""From attenuation to the picture a radiography system shows: scatter, quantum noise, tone; part of `phantoms`."""

from dataclasses import dataclass

import numpy as np

from preprocessing.phantoms.canvas import Box, Frame, Layer

_PHOTONS = 9000.0
"""Photons a square millimetre of the open field detects; sets the fine grain, which finer pixels show more."""


@dataclass(frozen=True)
class Exposure:
    """One exposure and its processing.

    Args:
        scatter: scattered share of what reaches the detector behind the lungs.
        dose: relative number of photons.
        level: attenuation shown as middle grey.
        latitude: attenuation from black to white; small is a contrasty picture.
        detail: strength of the edge enhancement.
        flattening: share of the wide-area differences that the processing takes away.
        heel: relative fall of the intensity from one side of the field to the other, and its direction, radians.
        mottle: standard deviation of the noise at a grain of 1.6 mm, log attenuation.
        collimation: rows and columns hidden at the upper, lower, left and right edge, as shares of the picture.
    """

    scatter: float
    dose: float
    level: float
    latitude: float
    detail: float
    flattening: float
    heel: tuple[float, float]
    mottle: float
    collimation: tuple[float, float, float, float]


def sample_exposure(random: np.random.Generator, variation: float, noise: float, portable: bool) -> Exposure:
    """An exposure; portable ones have more scatter, more noise and no grid."""

    def around(mean: float, spread: float) -> float:
        return float(mean + variation * spread * np.clip(random.standard_normal(), -2.2, 2.2))

    edges = np.where(random.random(4) < 0.12 * variation, random.uniform(0.01, 0.06, 4), 0.0)
    return Exposure(
        scatter=around(0.5 if portable else 0.3, 0.06),
        dose=float(np.exp(around(-0.5 if portable else 0.0, 0.35))),
        level=around(2.55, 0.16),
        latitude=around(3.1, 0.3),
        detail=max(0.0, around(0.55, 0.25)),
        flattening=float(np.clip(around(0.3, 0.1), 0, 0.6)),
        heel=(abs(around(0.06, 0.08)), float(random.uniform(0, 2 * np.pi))),
        mottle=noise * float(np.exp(around(0.3 if portable else 0.0, 0.25))),
        collimation=tuple(float(edge) for edge in edges),  # type: ignore[arg-type]
    )


def expose(attenuation: Layer, frame: Frame, exposure: Exposure, random: np.random.Generator) -> Layer:
    """Line integrals (rows, columns) -> picture (rows, columns) in [0, 1], air dark and bone bright.

    The primary beam is attenuated (Beer-Lambert), a wide blur of it is added as scatter, photons are counted, and the
    logarithm is shown through edge enhancement, a flattening of wide-area differences and a smooth tone curve.
    """
    primary = np.exp(-attenuation)
    intensity = primary + np.float32(exposure.scatter) * frame.blur(np.minimum(primary, 0.35), 26)
    x, y = frame.grid
    slope, direction = exposure.heel
    heel = slope / 350 * (np.float32(np.cos(direction)) * x + np.float32(np.sin(direction)) * y)
    signal = -np.log(intensity) + heel + _noise(intensity, frame, exposure, random)
    wide = frame.blur(np.clip(signal, 1.0, 5.0), 34)
    shown = signal - np.float32(exposure.flattening) * (wide - np.float32(exposure.level))
    shown += np.float32(exposure.detail) * (signal - frame.blur(signal, 2.6))
    picture = 1 / (1 + np.exp(np.float32(-4.2 / exposure.latitude) * (shown - np.float32(exposure.level))))
    row0, column0, row1, column1 = open_field(frame, exposure)
    hidden = np.full(frame.shape, 0.02, np.float32)
    hidden[row0:row1, column0:column1] = picture[row0:row1, column0:column1]
    return hidden


def open_field(frame: Frame, exposure: Exposure) -> Box:
    """(row0, col0, row1, col1) of what the collimator leaves open."""
    top, bottom, left, right = exposure.collimation
    return (
        round(top * frame.rows),
        round(left * frame.columns),
        frame.rows - round(bottom * frame.rows),
        frame.columns - round(right * frame.columns),
    )


def _noise(intensity: Layer, frame: Frame, exposure: Exposure, random: np.random.Generator) -> Layer:
    """Photon noise, independent in every pixel, and mottle, whose grain has a size in mm; both grow as light fades."""
    scale = np.sqrt(np.float32(0.12) / intensity)
    photons = _PHOTONS * exposure.dose / frame.pixels_per_mm**2 * 0.12
    fine = random.standard_normal(frame.shape, dtype=np.float32) * np.float32(photons**-0.5)
    grain = fine + np.float32(exposure.mottle) * frame.texture(random, 1.6)
    return np.asarray(np.minimum(scale, 4) * grain, np.float32)
