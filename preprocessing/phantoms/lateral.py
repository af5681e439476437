"""The lateral view of a synthetic patient; part of the phantom generator (see `phantoms`).

x grows to the patient's back, y to the feet, the origin is the carina. Findings that a lateral view shows well are
drawn at the height they have in the frontal view; a pneumothorax, mild edema and tubes are left to the frontal.
"""

from collections.abc import Callable

import numpy as np

from preprocessing.phantoms.anatomy import AIR_SHARE, TISSUE
from preprocessing.phantoms.body import Body, Pose
from preprocessing.phantoms.canvas import (
    Curve,
    Frame,
    Layer,
    Points,
    Table,
    ellipsoid,
    piecewise,
    ribbon,
    smooth_step,
    spline,
)
from preprocessing.phantoms.findings import ENLARGEMENT
from preprocessing.phantoms.plan import ZONES, Finding


def draw_lateral(
    frame: Frame, body: Body, pose: Pose, findings: tuple[Finding, ...], contrast: float, overlap: float
) -> Layer:
    """Attenuation of a lateral view, (rows, columns): both lungs over each other, heart, spine, breastbone, domes."""
    front, back = _chest_edges(body)
    lung = frame.blur(frame.fill(_lung_outline(pose, front, back)), 1.2)
    air = _lung_depth(frame, lung)
    solid = _heart(frame, pose, body, findings, contrast)
    air = np.maximum(air - 1.1 * solid, air * 0.12)
    share, added = np.zeros(frame.shape, np.float32), np.zeros(frame.shape, np.float32)
    for finding in findings:
        if finding.drawn and finding.label in _FILLERS:
            new, more = _FILLERS[finding.label](frame, pose, finding, contrast * finding.strength)
            share, added = 1 - (1 - share) * (1 - np.clip(new * lung, 0, 1)), added + more * lung
    vessels = _vessels(frame, body, lung) * (0.75 + 0.5 * overlap)
    inside = _trunk(frame, body, front, back) - AIR_SHARE * air * (1 - share) + vessels * (1 - share)
    bones = _bones(frame, body, front, back) * np.float32(0.8 + 0.4 * overlap)
    trachea = frame.blur(frame.strokes([([np.array([(-2.0, -230.0), (6, -90), (14, 5)])], 15, 1.0)]), 1.8) * 0.3
    return np.asarray(np.maximum(TISSUE * inside, 0) + bones + added - trachea)


def _chest_edges(body: Body) -> tuple[Table, Table]:
    """Inner front and back wall of the chest: heights and depths, mm, each (N,)."""
    heights, half = np.array([-125.0, -95, -40, 40, 130, 220]), body.depth / 215
    front, back = np.array([-14, -46, -76, -93, -97, -92]), np.array([52, 78, 100, 108, 98, 84])
    return (heights, front * half), (heights, back * half)


def _lung_outline(pose: Pose, front: Table, back: Table) -> Points:
    low = pose.inspiration
    sides = np.array([-118.0, -95, -50, 0, 50])
    dome = 112 + low
    corner = (float(np.interp(dome, *front)), dome + 8)
    floor = [corner, corner, (-50, dome - 12), (5, dome - 8), (55, dome + 14), (84, dome + 48), (84, dome + 48)]
    breast = [(float(np.interp(y, *front)), y) for y in sides]
    spine = [(float(np.interp(y, *back)), y) for y in (90.0 + low, 50.0, 0.0, -50.0, -95.0)]
    return spline([*breast, *floor, *spine, (20.0, -124.0)], closed=True)


def _lung_depth(frame: Frame, lung: Layer) -> Layer:
    x, y = frame.grid
    depth = piecewise(y, [-125, -80, -20, 60, 160], [70, 130, 195, 215, 215])
    rim = frame.blur(lung, 16)
    profile = (0.35 + 0.65 * smooth_step(rim, 0.45, 1.0)) * (0.9 + 0.1 * np.cos(x / 60))
    return np.asarray(depth * lung * profile, np.float32)


def _trunk(frame: Frame, body: Body, front: Table, back: Table) -> Layer:
    """Thickness of trunk, neck and raised arms from side to side, mm."""
    x, y = frame.grid
    wall = 16 + 0.35 * body.wall
    shoulder, neck = smooth_step(y, -170, -110), smooth_step(y, -150, -110)
    edge_front = piecewise(y, [-170, -120], [-42, 0]) + (piecewise(y, *front) - wall) * shoulder
    edge_back = piecewise(y, [-400, -150, -110], [52, 66, 0]) + (piecewise(y, *back) + wall + 14) * neck
    middle, half = (edge_front + edge_back) / 2, (edge_back - edge_front) / 2
    across = np.abs((x - middle) / np.maximum(half, 1))
    width = piecewise(y, [-400, -170, -120, -60, 60, 260], [110, 125, 235, 285, 290, 300]) * body.width
    trunk = width * np.power(np.maximum(1 - across**2.6, 0), 0.6)
    arms = 215 * ellipsoid(frame, (6, -200), (98, 150), 0.08)
    if body.female:
        trunk += 34 * ellipsoid(frame, (float(np.interp(50, *front)) - 2, 48), (26 + 0.2 * body.breast, 56), 0.1)
    return frame.blur(np.maximum(trunk, arms) + 0.3 * np.minimum(trunk, arms), 2)


def _heart(frame: Frame, pose: Pose, body: Body, findings: tuple[Finding, ...], contrast: float) -> Layer:
    grown = [ENLARGEMENT[f.size] * f.strength for f in findings if f.label == "Cardiomegaly" and f.drawn]
    size = body.heart * (1 + contrast * sum(grown))
    low = 0.75 * pose.inspiration
    heart = 105 * ellipsoid(frame, (-34 + 14 * (size - 1), 118 + low - 48 * size), (56 * size, 47 * size), -0.75)
    arch = 26 * ellipsoid(frame, (20, -20), (34, 22), -0.2)
    hilum = 30 * ellipsoid(frame, (16, 18), (22, 20), 0.5) + 12 * ellipsoid(frame, (44, 70), (11, 90), 0.05)
    return frame.blur(np.maximum(heart, arch) + hilum, 1.8)


def _vessels(frame: Frame, body: Body, lung: Layer) -> Layer:
    random = np.random.default_rng([body.tree, 7])
    groups = []
    for width in (1.2, 1.7, 2.6, 4.0, 6.0):
        count = int(90 / width)
        angle = random.uniform(0, 2 * np.pi, count)
        start = (
            random.uniform(0.0, 1.0, count)[:, None]
            * np.array([60.0, 95.0])
            * np.stack([np.cos(angle), np.sin(angle)], 1)
            / width**0.6
        )
        end = start + (26 + 4 * width) * np.stack([np.cos(angle + 0.2), np.sin(angle + 0.2)], axis=1)
        curves = np.stack([start, (start + end) / 2 + random.normal(0, 2, (count, 2)), end], axis=1) + np.array(
            [14, 15]
        )
        groups.append((list(curves), width, min(1.0, width / 10)))
    return frame.blur(frame.strokes(groups), 0.8) * 11 * lung


def _bones(frame: Frame, body: Body, front: Table, back: Table) -> Layer:
    """Spine with its disc spaces, breastbone, ribs and shoulder blades."""
    y = np.arange(-215.0, 265.0, 4.0)
    spine = np.stack([np.interp(y, *back) - 27 + 8 * (y < -110), y], axis=1)
    pieces: list[tuple[Curve, float]] = [(ribbon(spine, 34), 0.62)]
    for top in np.arange(-210.0, 262.0, body.rib_spacing):
        x = float(np.interp(top, spine[:, 1], spine[:, 0]))
        pieces.append(([(x - 15, top), (x + 15, top - 1), (x + 15, top + 3), (x - 15, top + 4)], 0.18))
        pieces.append(([(x + 16, top + 8), (x + 42, top + 20), (x + 40, top + 26), (x + 16, top + 17)], 0.5))
    level = np.arange(-95.0, 70.0, 5.0)
    chest_bone = np.stack([np.interp(level, *front) - 7, level], axis=1)
    pieces.append((ribbon(chest_bone, 11), 0.5))
    column = frame.blur(frame.fill_levels(pieces), 1.0) * 0.62
    ribs: list[tuple[Curve, float]] = []
    for number in range(1, 10):
        for shift in (-4.0, 4.0):
            start = -112 + body.rib_spacing * number + shift
            way = np.linspace(0, 1, 24)
            height = start + (body.rib_slope + 24) * way**1.3
            low, high = np.interp(height, *front) + 22, np.interp(height, *back) - 6
            curve = np.stack([high + (low - high) * way, height], axis=1)
            ribs += [(ribbon(curve, 10 + 0.4 * shift), 0.8), (ribbon(curve, 6 + 0.3 * shift), 0.45)]
    blade = [
        (spline([(62, -140), (78, -90), (96, -50), (104, -10)], closed=False), 14),
        (spline([(38, -140), (62, -95), (88, -60)], closed=False), 10),
    ]
    blades = frame.fill(*(ribbon(curve, width) for curve, width in blade))
    return np.asarray(column + 0.16 * (frame.blur(frame.fill_levels(ribs), 0.9) + frame.blur(blades, 1.2)), np.float32)


_Drawn = tuple[Layer, Layer | float]


def _zone_point(pose: Pose, finding: Finding, random: np.random.Generator) -> tuple[float, float]:
    y = -106 + (ZONES.index(finding.zone) + 0.5) / 3 * (212 + pose.inspiration)
    return random.uniform(-35, 55), y


def _consolidation(frame: Frame, pose: Pose, finding: Finding, contrast: float) -> _Drawn:
    random = np.random.default_rng(finding.seed)
    radius = {"small": 17.0, "moderate": 25.0, "large": 33.0}[finding.size]
    x, y = frame.grid
    x0, y0 = _zone_point(pose, finding, random)
    ragged = np.sqrt(((x - x0) / radius) ** 2 + ((y - y0) / radius) ** 2) - 0.24 * frame.texture(random, 13)
    return 0.34 * contrast * smooth_step(-ragged, -1.25, -0.55), 0.0


def _nodule(frame: Frame, pose: Pose, finding: Finding, contrast: float) -> _Drawn:
    random = np.random.default_rng(finding.seed)
    radius = {"small": 6.5, "moderate": 9.5, "large": 15.0}[finding.size]
    ball = ellipsoid(frame, _zone_point(pose, finding, random), (radius, radius * 0.94), 0)
    return np.zeros(frame.shape, np.float32), frame.blur(ball, 0.8) * np.float32(
        TISSUE * (14 + 1.3 * radius) * contrast
    )


def _effusion(frame: Frame, pose: Pose, finding: Finding, contrast: float) -> _Drawn:
    height = {"small": 34.0, "moderate": 66.0, "large": 110.0}[finding.size]
    x, y = frame.grid
    level = 158 + pose.inspiration - height * piecewise(x, [-57, 95], [0.12, 1.0])
    return 0.6 * contrast * smooth_step(y - level, -8, 10), 0.0


def _edema(frame: Frame, pose: Pose, finding: Finding, contrast: float) -> _Drawn:
    haze = {1: 0.06, 2: 0.12, 3: 0.4}[finding.grade]
    x, y = frame.grid
    cloud: Layer = np.exp(-np.square((x - 15) / 60) - np.square((y - 20) / 60))
    return np.float32(contrast * haze) * cloud, 0.0


_FILLERS: dict[str, Callable[[Frame, Pose, Finding, float], _Drawn]] = {
    "Consolidation": _consolidation,
    "Lung Lesion": _nodule,
    "Pleural Effusion": _effusion,
    "Edema": _edema,
}
