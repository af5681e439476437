"""The frontal view of a healthy chest, layer by layer.

Part of the phantom generator (see `phantoms`). Thicknesses are in mm of water-like tissue along the beam, attenuations
are dimensionless line integrals (the logarithm of the intensity), as a detector sees them.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.phantoms.body import SIDES, Body, Pose, lung_outline, side_sign
from preprocessing.phantoms.canvas import Frame, Layer, Points, ellipsoid, piecewise, smooth_step, spline
from preprocessing.phantoms.skeleton import draw_skeleton

TISSUE = 0.02
"""Linear attenuation of soft tissue, 1/mm, at the effective energy of a chest exposure (about 60 keV)."""

AIR_SHARE = 0.78
"""Share of an inflated lung that is air."""


@dataclass
class Chest:
    """Layers of one frontal view, each (rows, columns) float32; findings alter them before they are summed.

    Args:
        tissue: thickness of the trunk, mm, as if it held no air.
        air: thickness of aerated lung, mm.
        opaque: share of the air that something has replaced, 0 to 1.
        vessels: thickness of lung vessels, mm.
        extra: further attenuation: bone, metal, pleural lines; negative for bowel gas.
        lungs: side to mask of the lung, 0 to 1.
        overlap: strength of what lies over the lungs, see `Difficulty`.
    """

    frame: Frame
    body: Body
    pose: Pose
    tissue: Layer
    air: Layer
    opaque: Layer
    vessels: Layer
    extra: Layer
    lungs: dict[str, Layer]
    overlap: float

    def attenuation(self) -> Layer:
        """Line integral of the attenuation, (rows, columns), about 0 in air to 6 behind the spine."""
        clear = 1 - self.opaque
        inside = self.tissue - AIR_SHARE * self.air * clear + self.vessels * (0.15 + 0.85 * clear)
        return np.maximum(TISSUE * inside, 0) + self.extra

    def replace_air(self, share: Layer) -> None:
        """Fill a share (0 to 1) of what air is left with something opaque."""
        self.opaque = 1 - (1 - self.opaque) * (1 - np.clip(share, 0, 1))


def draw_chest(frame: Frame, body: Body, pose: Pose, overlap: float) -> Chest:
    """The frontal view of a healthy person before the heart is placed; `overlap` as in `Difficulty`."""
    lungs = {side: frame.fill(lung_outline(body, pose, side)) for side in SIDES}
    lungs = {side: frame.blur(mask, 0.8) for side, mask in lungs.items()}
    zero = np.zeros(frame.shape, np.float32)
    chest = Chest(frame, body, pose, _trunk(frame, body, pose), zero, zero, zero, zero.copy(), lungs, overlap)
    chest.air = _air(frame, body, lungs["right"] + lungs["left"]) + _hidden_air(frame, body, pose)
    chest.vessels = draw_vessels(chest, np.ones(2))
    chest.extra += draw_skeleton(frame, body, pose, overlap) - _airways(frame, pose)
    _add_abdomen(chest)
    return chest


def _trunk(frame: Frame, body: Body, pose: Pose) -> Layer:
    """Thickness of neck, trunk, shoulders and arms, mm."""
    x, y = frame.grid
    half = piecewise(y, [-400, -190, -150, -120, -90, 0, 160, 260], [52, 55, 62, 100, 118, 134, 142, 150])
    half = half * body.width + body.wall * piecewise(y, [-160, -110], [0.2, 1])
    depth = piecewise(y, [-400, -160, -110, -40, 120, 260], [105, 112, 150, body.depth, body.depth, body.depth * 1.04])
    across = np.square(x / half)
    trunk = depth * np.sqrt(np.maximum(1 - across * across, 0))
    arms = np.zeros(frame.shape, np.float32)
    drop = 60 + 70 * (1 - pose.shoulders)
    for sign in (-1, 1):
        start = np.array([sign * 70 * body.width, -150])
        joint = np.array([sign * (152 * body.width + body.wall * 0.5), -108])
        hand = np.add(joint, [sign * (55 + 40 * pose.shoulders), drop + 60])
        for a, b, radius in ((start, joint, 44), (joint, hand, 47)):
            arms = np.maximum(arms, _limb(frame, a, b, radius))
    thickness = np.maximum(trunk, arms) + 0.25 * np.minimum(trunk, arms)
    if body.female:
        for sign in (-1, 1):
            centre = (sign * 74 * body.width, 48 + pose.inspiration * 0.3)
            thickness += 34 * ellipsoid(frame, centre, (body.breast, body.breast * 0.95), 0)
    return frame.blur(thickness, 1.5)


def _limb(frame: Frame, start: Points, end: Points, radius: float) -> Layer:
    """Thickness, mm, of a limb with a radius around a line."""
    thickness = np.zeros(frame.shape, np.float32)
    box = frame.box_of_points([start, end], radius)
    if box is None:
        return thickness
    part = slice(box[0], box[2]), slice(box[1], box[3])
    x, y = (axis[part] for axis in frame.grid)
    along = (end - start).astype(np.float32)
    x, y = x - np.float32(start[0]), y - np.float32(start[1])
    t = np.clip((x * along[0] + y * along[1]) / (along @ along), 0, 1)
    squared = np.square(x - t * along[0]) + np.square(y - t * along[1])
    thickness[part] = 2 * np.sqrt(np.maximum(np.float32(radius**2) - squared, 0))
    return thickness


def _air(frame: Frame, body: Body, mask: Layer) -> Layer:
    """Thickness of both lungs along the beam: thin at its edges, as a rounded body is, and less behind the heart."""
    inside = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / np.float32(frame.pixels_per_mm)
    rim = 1 - np.minimum(inside / 46, 1)
    profile = np.sqrt(np.maximum(1 - rim * rim, 0)) * 0.72 + 0.28
    y = frame.grid[1]
    depth = piecewise(y, [-125, -90, -30, 60, 150], [0.42, 0.62, 0.82, 0.8, 0.66]) * body.depth
    return np.asarray(frame.blur((profile * depth) * mask, 1.0))


def _hidden_air(frame: Frame, body: Body, pose: Pose) -> Layer:
    """Lung behind the domes of the diaphragm, mm."""
    y = frame.grid[1]
    air = np.zeros(frame.shape, np.float32)
    for side in SIDES:
        outline = lung_outline(body, pose, side)
        lower = outline.copy()
        lower[:, 1] = np.where(lower[:, 1] > 20, lower[:, 1] + 26, lower[:, 1])
        below = frame.blur(frame.fill(lower), 7) * (1 - frame.fill(outline))
        air += below * smooth_step(y, 40, 80) * 26
    return air


def mediastinum(chest: Chest, heart: float) -> Layer:
    """Thickness of heart and great vessels, mm, for a heart of a relative size."""
    frame, body, pose = chest.frame, chest.body, chest.pose
    shift, low = pose.turn, pose.inspiration * 0.75
    wide = heart * body.heart * (1.1 if pose.view == "AP" else 1.0)
    tall = 1 + 0.5 * (wide - 1)  # it lies on the diaphragm and grows to the sides
    base = 128 + low
    layers = [
        104 * ellipsoid(frame, (31 * wide + shift, base - 43 * tall), (66 * wide, 46 * tall), body.tilt),
        72 * ellipsoid(frame, (-8 * wide + shift, base - 46 * tall), (35 * wide, 50 * tall), 0.12),
        62 * ellipsoid(frame, (22 * wide + shift, base - 84 * tall), (30 * wide, 44 * tall), -0.35),
        2.4 * body.knob * ellipsoid(frame, (19 + shift, -24), (body.knob, body.knob * 1.2), 0.2),
        40 * ellipsoid(frame, (-15 + shift, -42), (20, 84), 0.04),
        46 * ellipsoid(frame, (5 + shift * 0.6, -80), (28, 112), 0),
        20 * ellipsoid(frame, (21 + shift * 0.4, 70), (13, 110), 0.03),
        26 * ellipsoid(frame, (0, 40), (25, 190), 0),
        22 * ellipsoid(frame, (-36 * body.width + shift * 0.5, 18), (12, 24), -0.35),
        22 * ellipsoid(frame, (37 * body.width + shift * 0.5, 8), (11, 22), 0.4),
    ]
    total = np.sqrt(np.square(layers[0]) + np.square(layers[1]) + np.square(layers[2]))  # chambers merge
    for layer in layers[3:]:
        total = np.maximum(total, layer) + 0.3 * np.minimum(total, layer)
    return frame.blur(total, 1.4)


def place_heart(chest: Chest, heart: float) -> None:
    """Let heart and great vessels displace lung; the part behind them stays aerated."""
    solid = mediastinum(chest, heart)
    chest.air = np.maximum(chest.air - 1.15 * solid, chest.air * (0.05 + 0.95 * np.exp(-solid / 26)))


def draw_vessels(chest: Chest, congestion: Points) -> Layer:
    """Vessels that branch and taper from the hila, mm; `congestion` is the relative calibre (above, below) the hila."""
    frame = chest.frame
    trees = []
    for side in SIDES:
        random = np.random.default_rng([chest.body.tree, side_sign(side) + 1])
        trees.append(_grow_tree(random, side_sign(side), chest.body.width, chest.pose))
    groups: list[tuple[Points, float, float]] = []
    for (right, width), (left, _) in reversed(list(zip(*trees, strict=True))):
        curves = np.concatenate([right, left])
        upper = curves[:, -1, 1] < 5
        for chosen, calibre in ((upper, congestion[0]), (~upper, congestion[1])):
            if chosen.any():
                groups.append((curves[chosen], width * calibre, min(1.0, width * calibre / 13)))
    layer = frame.blur(frame.strokes(groups), 0.6) * 21
    layer += frame.blur(layer, 5) * 0.25
    inside = frame.blur(chest.lungs["right"] + chest.lungs["left"], 2)
    return layer * inside * np.float32(0.75 + 0.5 * chest.overlap)


def _grow_tree(random: np.random.Generator, sign: int, width: float, pose: Pose) -> list[tuple[Points, float]]:
    """Generations of vessels, trunk first: curves (branches, points, 2) in mm and their calibre in mm."""
    count, calibre, length = 17, 8.6, 28.0
    hilum = np.array([sign * 33 * width + pose.turn * 0.5, 14.0 if sign < 0 else 6.0])
    angle = np.linspace(-1.85, 1.85, count) + random.normal(0, 0.12, count)
    start = hilum + np.stack([random.normal(0, 3, count), 12 * np.sin(angle) + random.normal(0, 3, count)], axis=1)
    generations = []
    steps = np.linspace(0, 1, 6)[None, :, None]
    for _ in range(6):
        bend = random.normal(0, 0.3, len(angle))
        reach = length * random.uniform(0.65, 1.3, len(angle))
        turned = angle[:, None] + bend[:, None] * steps[..., 0]
        direction = np.stack([sign * np.cos(turned), np.sin(turned)], axis=-1)
        curves = start[:, None] + reach[:, None, None] * steps * direction
        generations.append((curves, calibre))
        spread = random.uniform(0.2, 0.62, len(angle))
        angle = np.concatenate([turned[:, -1] + spread, turned[:, -1] - spread * 0.8])
        start = np.concatenate([curves[:, -1]] * 2)
        keep = random.random(len(angle)) < 0.86
        angle, start = angle[keep], start[keep]
        calibre, length = calibre * 0.72, length * 0.87
    return generations


def _airways(frame: Frame, pose: Pose) -> Layer:
    """Attenuation that the air in windpipe and main bronchi spares."""
    shift = pose.turn * 0.6
    trachea = spline([(shift * 0.4 + 1, -230), (shift * 0.7 + 1, -110), (shift + 3, -45), (shift, 2)], closed=False)
    right = spline([(shift - 1, -4), (shift - 16, 12), (shift - 30, 32)], closed=False)
    left = spline([(shift + 1, -4), (shift + 20, 12), (shift + 42, 25)], closed=False)
    layer = frame.strokes([([trachea], 16, 1.0), ([right, left], 10, 0.6)])
    return frame.blur(layer, 1.6) * 0.3


def _add_abdomen(chest: Chest) -> None:
    """Gas in the stomach, with a level when the person stands, and the liver's greater thickness."""
    frame, body, pose = chest.frame, chest.body, chest.pose
    x, y = frame.grid
    if pose.gas:
        centre = (64 * body.width, 152 + pose.inspiration - pose.left_dome + pose.gas * 0.75 + 9)
        bubble = ellipsoid(frame, centre, (pose.gas * 1.35, pose.gas * 0.8), -0.15)
        if pose.view == "PA":
            bubble = bubble * smooth_step(-y, -centre[1] - pose.gas * 0.35 - 1, -centre[1] - pose.gas * 0.35 + 1)
        chest.extra -= frame.blur(bubble, 1.2) * TISSUE * pose.gas * 1.3
    below = smooth_step(y, 95 + pose.inspiration, 150 + pose.inspiration) * smooth_step(-np.abs(x), -150, -90)
    chest.tissue = chest.tissue + below * 14
