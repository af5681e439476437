"""Tubes, lines, pacemakers and wires of synthetic patients, and the look-alikes that make reading harder.

Part of the phantom generator (see `phantoms`).
"""

import numpy as np

from preprocessing.phantoms.anatomy import Chest
from preprocessing.phantoms.body import side_sign
from preprocessing.phantoms.canvas import Box, Layer, Points, ellipsoid, smooth_step, spline
from preprocessing.phantoms.plan import Finding

_Curves = list[tuple[list[Points], float, float]]


def draw_device(chest: Chest, device: Finding, random: np.random.Generator) -> tuple[Layer, Box | None]:
    """Attenuation of a device, (rows, columns), and the box around it.

    Raises:
        KeyError: its `kind` is none of `plan.DEVICES`.
    """
    draw = {
        "endotracheal tube": _endotracheal,
        "central line": _central_line,
        "pacemaker": _pacemaker,
        "nasogastric tube": _nasogastric,
        "sternal wires": _sternal_wires,
    }[device.kind]
    groups = draw(chest, device, random)
    metal = chest.frame.blur(chest.frame.strokes(groups), 0.35)
    points = np.concatenate([curve for curves, _, _ in groups for curve in curves])
    return metal, chest.frame.box_of_points(points, 2.5)


def _endotracheal(chest: Chest, device: Finding, random: np.random.Generator) -> _Curves:
    shift, tip = chest.pose.turn * 0.6 + 1, -10 * device.distance
    line = spline([(shift * 0.4, -240), (shift * 0.6 + random.normal(0, 1.5), -130), (shift, tip)], closed=False)
    return [([line], 9.0, 0.16), ([np.add(line, [3.6, 0]), np.subtract(line, [3.6, 0])], 1.5, 0.5)]


def _central_line(chest: Chest, device: Finding, random: np.random.Generator) -> _Curves:
    sign = side_sign(device.side)
    end = [(-20 + chest.pose.turn, -30.0), (-22 + chest.pose.turn, random.uniform(0, 38))]
    if random.random() < 0.5:  # by the jugular vein
        way = [(sign * 46, -230), (sign * 34, -165), (sign * 24 - 4, -105), (-16 if sign < 0 else 2, -72)]
    else:  # from the arm, under the collar bone
        way = [(sign * 205, -70), (sign * 150, -92), (sign * 95, -104), (sign * 45, -88), (-12 if sign < 0 else 8, -70)]
    line = spline([*way, *end], closed=False)
    return [([line], 2.6, 0.42)]


def _pacemaker(chest: Chest, device: Finding, random: np.random.Generator) -> _Curves:
    sign = side_sign(device.side)
    x, y = sign * random.uniform(88, 104) * chest.body.width, random.uniform(-86, -62)
    turn = np.linspace(0, 2 * np.pi, 25)
    case = np.stack([x + 21 * np.cos(turn), y + 18 * np.sin(turn) + 4 * np.sin(2 * turn)], axis=1)
    filled = [x, y] + (case - [x, y]) * np.linspace(0.1, 1, 9)[:, None, None]
    low = 0.75 * chest.pose.inspiration + chest.pose.turn * 0.2
    vein = [(sign * 60, -100), (sign * 22, -82), (-14, -55), (-20, -5)]
    tips = [[(-22, 40), (0, 98 + low), (52, 108 + low)], [(-26, 38), (-14, 60 + low), (-2, 42 + low)]]
    leads = [spline([(x - sign * 12, y - 14), *vein, *tip], closed=False) for tip in tips]
    return [(leads, 1.9, 0.6), ([leads[0][-4:], leads[1][-4:]], 2.6, 0.95), (list(filled), 4.6, 1.0)]


def _nasogastric(chest: Chest, device: Finding, random: np.random.Generator) -> _Curves:
    low = chest.pose.inspiration - chest.pose.left_dome
    deep = 172 + low + random.uniform(0, 18)
    stomach = [(16, 140 + low), (34, 160 + low), (64, deep), (58, deep + 30)]
    line = spline([(-3, -240), (4, -120), (7, -20), (9, 50), *stomach], closed=False)
    return [([line], 4.4, 0.12), ([np.add(line, [1.2, 0])], 1.6, 0.6)]


def _sternal_wires(chest: Chest, device: Finding, random: np.random.Generator) -> _Curves:
    shift = chest.pose.turn
    turn = np.linspace(0, 2 * np.pi, 15)
    loops = []
    for y in -62 + np.arange(6) * random.uniform(22, 26):
        tilt = random.normal(0, 0.2)
        x, height = 9.5 * np.cos(turn), 4.2 * np.sin(turn)
        loops.append(np.stack([shift + x, y + height + tilt * x], axis=1))
        loops.append(np.array([(shift + 1.0, y + 4), (shift + random.normal(2, 2), y + 11)]))
    return [(loops, 1.4, 0.9)]


def add_look_alikes(chest: Chest, random: np.random.Generator) -> None:
    """Draw what is harmless but resembles a finding, the more of it the greater the overlap."""
    frame, body = chest.frame, chest.body
    x, y = frame.grid
    wanted = random.random(5) < chest.overlap * np.array([0.35, 0.3, 0.35, 0.3, 0.25])
    amount = chest.overlap
    sign = 1 if random.random() < 0.5 else -1
    if wanted[0]:  # a skin fold runs like the pleura of a pneumothorax, but brightens one side and crosses the ribs
        lateral = sign * x - (70 + 30 * random.random() + 0.12 * y)
        chest.extra += (
            0.16 * amount * smooth_step(lateral, -30, 0) * (lateral < 0) * smooth_step(-np.abs(y + 20), -120, -70)
        )
    if wanted[1]:  # fat beside the heart
        centre = (52 + 14 * random.random(), 118 + chest.pose.inspiration)
        chest.extra += 0.5 * amount * frame.blur(ellipsoid(frame, centre, (30, 20), 0.3), 3)
    if wanted[2]:  # calcified cartilage of the first ribs, dense like a nodule
        for side in (-1, 1):
            spot = (side * (38 + 6 * random.random()) * body.width, -66 + 8 * random.random())
            chest.extra += 0.22 * amount * frame.blur(ellipsoid(frame, spot, (11, 5), side * 0.5), 1.2)
    if wanted[3]:  # nipples
        for side in (-1, 1):
            spot = (side * 82 * body.width, 70 + 6 * random.standard_normal())
            chest.extra += 0.16 * amount * frame.blur(ellipsoid(frame, spot, (6, 5), 0), 0.8)
    if wanted[4]:  # a shallow plate of collapsed lung
        start = np.array([sign * 60.0, 78 + chest.pose.inspiration + 8 * random.standard_normal()])
        plate = spline(
            start + np.array([(0, 0), (sign * 22, -4), (sign * 46, 4 * random.standard_normal())]), closed=False
        )
        chest.extra += 0.2 * amount * frame.blur(frame.strokes([([plate], 3.2, 1.0)]), 0.8)
    chest.tissue = chest.tissue + amount * 2.2 * frame.texture(random, 30)
