"""Ribs, spine, collar bones and shoulder blades of a frontal view; part of the phantom generator (see `phantoms`)."""

import numpy as np

from preprocessing.phantoms.body import SIDES, Body, Pose, chest_wall, side_sign
from preprocessing.phantoms.canvas import Curve, Frame, Layer, Points, piecewise, ribbon, spline


def draw_skeleton(frame: Frame, body: Body, pose: Pose, overlap: float) -> Layer:
    """Attenuation of bone beyond that of the tissue it replaces, (rows, columns); `overlap` as in `Difficulty`."""
    strength = 0.75 + 0.5 * overlap
    return _ribs(frame, body, pose) * np.float32(strength) + _spine(frame, body) + _girdle(frame, body, pose)


def rib_curves(body: Body, pose: Pose) -> Points:
    """Centre lines of the eleven upper ribs of the left side, (11, N, 2) in mm, from the spine round to the front.

    The widest point, where a rib is seen end on, is in the middle.
    """
    number, angle = np.arange(11.0)[:, None], np.linspace(0.12, 2.62, 44)
    start = -120 + body.rib_spacing * number + 0.35 * pose.inspiration * (number / 9)
    drop = (body.rib_slope + 2.5 * number) * np.where(number == 0, 0.6, 1.0)
    y = start - 7 * np.sin(np.minimum(angle * 2, np.pi)) + drop * (angle / 2.62) ** 1.5
    reach = np.interp(y + 2, *chest_wall(body)) + 3
    wide = np.where(number == 0, 56 * body.width, reach[:, :26].max(axis=1, keepdims=True))
    x = np.where(angle < np.pi / 2, wide, np.maximum(wide, reach)) * np.sin(angle) ** 0.82
    return np.stack([np.maximum(x, 18), y], axis=-1)


def _ribs(frame: Frame, body: Body, pose: Pose) -> Layer:
    total = np.zeros(frame.shape, np.float32)
    left = rib_curves(body, pose)
    behind, before = left[:, :25], left[:7, 23:42]
    for curves, width, taper, level in ((behind, 9.5, 0.8, 0.20), (before, 11.5, 1.0, 0.11)):
        thick = width * np.linspace(taper, 1.05, curves.shape[1])
        painted: list[tuple[Curve, float]] = []
        for side in SIDES:
            mirrored = curves * np.array([side_sign(side), 1])
            # Each rib's core after its shell and before the next rib.
            for shell, core in zip(ribbon(mirrored, thick), ribbon(mirrored, thick * 0.62), strict=True):
                painted += [(shell, 1.0), (core, 0.62)]
        total += np.float32(level) * frame.blur(frame.fill_levels(painted), 0.7)
    x, y = frame.grid
    edge = np.abs(x) / piecewise(y, *chest_wall(body))
    steep = np.square(np.square(np.minimum(edge, 1.05)))
    return np.asarray(total * (1 + 0.7 * steep * steep), np.float32)


def _spine(frame: Frame, body: Body) -> Layer:
    """Vertebral bodies, their end plates, pedicles and spinous processes."""
    y = np.arange(-215.0, 262.0, 3.0)
    centre = np.stack([body.scoliosis * np.sin((y + 60) / 90), y], axis=1)
    column = frame.blur(frame.fill(ribbon(centre, np.interp(y, [-200, 250], [29, 42]))), 1.6) * 0.2
    pieces: list[tuple[Curve, float]] = []
    for top in np.arange(-214.0, 250.0, body.rib_spacing):
        middle = body.scoliosis * np.sin((top + 60) / 90)
        half = np.interp(top, [-200, 250], [15, 21])
        gap = 3.4
        pieces.append(
            ([(middle - half, top), (middle + half, top), (middle + half, top + gap), (middle - half, top + gap)], 0.0)
        )
        for offset in (-0.62, 0.62):
            ring = _ring(middle + offset * half, top + 10, 3.4, 5)
            pieces += [(ring, 1.0)]
        pieces.append((_ring(middle, top + 19, 2.6, 6.5), 1.0))
    plates = frame.fill_levels([(ribbon(centre, 34), 0.5), *pieces])
    return column + 0.17 * frame.blur(plates, 0.9) * (column > 0.05)


def _ring(x: float, y: float, half_width: float, half_height: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def _girdle(frame: Frame, body: Body, pose: Pose) -> Layer:
    """Collar bones, shoulder blades and heads of the upper arms."""
    bones, blades = [], []
    for sign in (-1, 1):
        inner = np.array([sign * 15 + pose.turn * 0.8, -86.0])
        tip = np.array([sign * 148 * body.width, -128 + 14 * (1 - pose.shoulders)])
        way = np.linspace(0, 1, 7)[:, None]
        curve = inner + way * (tip - inner) + np.array([0, 1]) * 9 * np.sin(way * 2 * np.pi)
        line = spline(curve, closed=False)
        wide = np.interp(np.linspace(0, 1, len(line)), [0, 0.25, 0.6, 1], [15, 10, 9.5, 13])
        bones += [(ribbon(line, wide), 1.0), (ribbon(line, wide * 0.6), 0.66)]
        head = (sign * (160 * body.width + body.wall * 0.3), -98.0)
        bones += [(_ring(*head, 22, 23), 0.9), (_ring(*head, 19, 20), 0.72)]
        out = 22 * pose.shoulders
        blade = [(92 + out, -92), (122 + out, -108), (146 + out * 0.5, -96), (140 + out, -55), (122 + out, 10),
                 (112 + out, 28), (103 + out, 0), (94 + out, -50)]  # fmt: skip
        outline = spline([(sign * body.width * u, v) for u, v in blade], closed=True)
        blades += [(outline, 1.0), (outline.mean(axis=0) + (outline - outline.mean(axis=0)) * 0.9, 0.55)]
    bone = frame.blur(frame.fill_levels(bones), 0.8) * 0.36
    return bone + frame.blur(frame.fill_levels(blades), 1.0) * 0.19
