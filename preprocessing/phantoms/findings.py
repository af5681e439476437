"""How findings look in a frontal view.

Part of the phantom generator (see `phantoms`). A finding is drawn into the layers of a `Chest`; the box it is known by
is where it changed the picture.
"""

from collections.abc import Callable

import numpy as np

from preprocessing.phantoms.anatomy import TISSUE, Chest, draw_vessels, mediastinum, place_heart
from preprocessing.phantoms.body import lung_outline, side_sign
from preprocessing.phantoms.canvas import Box, Layer, ellipsoid, smooth_step
from preprocessing.phantoms.devices import draw_device
from preprocessing.phantoms.plan import ZONES, Finding


def draw_findings(chest: Chest, findings: tuple[Finding, ...], contrast: float) -> list[Box | None]:
    """Draw findings into the layers of a healthy chest whose heart is not yet placed, and place the heart.

    Args:
        chest: altered in place.
        findings: those with `drawn` unset are passed over.
        contrast: factor on what each adds, see `Difficulty`.

    Returns:
        For each finding its (row0, col0, row1, col1) in pixels, end exclusive; None for one that is not drawn or of
        which nothing lies in the picture.
    """
    enlarged = [ENLARGEMENT[f.size] * f.strength for f in findings if f.label == "Cardiomegaly" and f.drawn]
    place_heart(chest, 1 + contrast * sum(enlarged))
    boxes: dict[int, Box | None] = {}
    for label, draw in _DRAWERS.items():
        for number, finding in enumerate(findings):
            if finding.label == label and finding.drawn:
                boxes[number] = draw(chest, finding, contrast * finding.strength)
    return [boxes.get(number) for number in range(len(findings))]


ENLARGEMENT = {"small": 0.24, "moderate": 0.34, "large": 0.46}


def _heart_box(chest: Chest, finding: Finding, contrast: float) -> Box | None:
    solid = mediastinum(chest, 1 + contrast * ENLARGEMENT[finding.size])
    base = 128 + 0.75 * chest.pose.inspiration
    y = chest.frame.grid[1]
    return chest.frame.box((solid > 22) & (y > base - 132) & (y < base + 8))


def _draw_edema(chest: Chest, finding: Finding, contrast: float) -> Box | None:
    """Wider vessels above; from grade 2 lines of thickened septa; at grade 3 haze around the hila."""
    frame, random = chest.frame, np.random.default_rng(finding.seed)
    chest.vessels = draw_vessels(chest, 1 + contrast * np.array([0.9, 0.45]) * (0.7 + 0.3 * finding.grade))
    lungs: Layer = chest.lungs["right"] + chest.lungs["left"]
    x, y = frame.grid
    hilar: Layer = np.exp(-np.square((np.abs(x) - 52) / 34) - np.square((y - 22) / 52))
    cloud = 0.85 + 0.18 * frame.texture(random, 7)
    haze = {1: 0.10, 2: 0.20, 3: 0.62}[finding.grade]
    chest.replace_air(contrast * haze * hilar * cloud + contrast * 0.035 * finding.grade * lungs)
    if finding.grade > 1:
        chest.vessels = chest.vessels + _septal_lines(chest, random) * np.float32(contrast * 3.2) * lungs
    return frame.box(lungs > 0.5)


def _septal_lines(chest: Chest, random: np.random.Generator) -> Layer:
    """Kerley's B lines, short and level at the bases' edges, over a net of finer lines: (rows, columns), 0 to 1."""
    frame, width = chest.frame, chest.body.width
    base = 95 + chest.pose.inspiration * 0.8
    short = []
    for sign in (-1, 1):
        for y in base - np.arange(0, 52, 6.5) + random.normal(0, 1, 8):
            short.append(
                [(sign * 128 * width, y), (sign * (128 - random.uniform(11, 20)) * width, y + random.normal(0, 1))]
            )
    start = np.stack([random.uniform(-130, 130, 260), random.uniform(-70, base + 20, 260)], axis=1)
    angle = random.uniform(0, np.pi, 260)
    net = np.stack([start, start + 11 * np.stack([np.cos(angle), np.sin(angle)], axis=1)], axis=1)
    return frame.blur(frame.strokes([(list(net), 1.1, 0.6), (short, 1.3, 1.0)]), 0.5)


def _draw_pneumothorax(chest: Chest, finding: Finding, contrast: float) -> Box | None:
    """Air between chest wall and a lung that has shrunk away from the apex: no vessels, and the pleura as an edge."""
    frame, sign = chest.frame, side_sign(finding.side)
    gap = {"small": 17.0, "moderate": 30.0, "large": 52.0}[finding.size]
    outline = lung_outline(chest.body, chest.pose, finding.side)
    reach = {"small": 10.0, "moderate": 75.0, "large": 190.0}[finding.size]
    fade = np.clip((reach - outline[:, 1]) / (reach + 125), 0, 1) ** 0.6
    inwards = np.array([sign * 24.0, 25.0]) - outline
    inwards /= np.linalg.norm(inwards, axis=1, keepdims=True)
    shrunk = outline + inwards * (gap * fade * np.clip((sign * outline[:, 0] - 16) / 22, 0, 1))[:, None]
    kept = frame.blur(frame.fill(shrunk), 0.8) * chest.lungs[finding.side]
    free = np.clip(chest.lungs[finding.side] - kept, 0, 1)
    pleura = frame.blur(frame.strokes([([np.concatenate([shrunk, shrunk[:1]])], 1.5, 1.0)]), 0.5)
    x, y = frame.grid
    edge = (
        pleura
        * smooth_step(sign * x, 14, 30)
        * smooth_step(-y, -reach, -reach + 25)
        * frame.blur(chest.lungs[finding.side], 2)
    )
    chest.vessels = chest.vessels * (1 - np.float32(min(1.0, contrast * 1.2)) * free)
    chest.extra += 0.2 * contrast * edge
    chest.air = chest.air * (1 + np.float32(0.16 * contrast) * free)
    if finding.size != "small":  # only a lung that has lost much of its air is visibly denser
        chest.replace_air(0.06 * contrast * kept)
    return frame.box(free > 0.5)


def zone_centre(chest: Chest, finding: Finding, random: np.random.Generator, spread: float) -> tuple[float, float]:
    """A place (x, y), mm, in a third of a lung, out of the mediastinum's shadow."""
    top, bottom = -106.0, 106 + chest.pose.inspiration
    row = ZONES.index(finding.zone) + 0.5 + spread * random.uniform(-1, 1)
    y = top + row / 3 * (bottom - top)
    inner = 74.0 if (finding.side, finding.zone) == ("left", "lower") else 44.0
    outer = float(np.interp(y, [-110, -80, -40, 20, 100], [56, 78, 94, 108, 114]))
    across = inner + (outer - inner) * (0.5 + spread * random.uniform(-1, 1))
    return side_sign(finding.side) * chest.body.width * across, y


def _draw_consolidation(chest: Chest, finding: Finding, contrast: float) -> Box | None:
    """Alveoli filled in patches, ill-defined at the edge, with open bronchi as dark lines within."""
    frame, random = chest.frame, np.random.default_rng(finding.seed)
    centre = zone_centre(chest, finding, random, 0.35)
    radius = {"small": 17.0, "moderate": 25.0, "large": 33.0}[finding.size]
    axes = (radius * random.uniform(0.85, 1.25), radius * random.uniform(0.8, 1.1))
    x, y = frame.grid
    distance = np.sqrt(((x - centre[0]) / axes[0]) ** 2 + ((y - centre[1]) / axes[1]) ** 2).astype(np.float32)
    ragged = distance - 0.24 * frame.texture(random, 13) - 0.08 * frame.texture(random, 5)
    share = smooth_step(-ragged, -1.25, -0.55) * chest.lungs[finding.side]
    if finding.zone == "upper" and random.random() < 0.4:  # bounded below by the fissure
        share *= smooth_step(-y, -centre[1] - axes[1] * 0.55 - 1.5, -centre[1] - axes[1] * 0.55 + 1.5)
    patchy = 0.84 + 0.16 * frame.texture(random, 6)
    chest.replace_air(
        0.72 * contrast * share * np.clip(patchy - 0.3 * _open_bronchi(chest, centre, radius, random), 0, 1)
    )
    return frame.box(share > 0.35)


def _open_bronchi(chest: Chest, centre: tuple[float, float], radius: float, random: np.random.Generator) -> Layer:
    """Air-filled bronchi that fan out from the side of the hilum, (rows, columns), 0 to 1."""
    away = np.arctan2(centre[1] - 15, centre[0] - np.sign(centre[0]) * 35) + random.normal(0, 0.35, 5)
    direction = np.stack([np.cos(away), np.sin(away)], axis=1)
    start = np.array(centre) + random.normal(0, 0.35 * radius, (5, 2)) - 0.6 * radius * direction
    curves = start[:, None] + np.linspace(0, 1.1 * radius, 4)[None, :, None] * direction[:, None]
    return chest.frame.blur(chest.frame.strokes([(curves, 1.9, 1.0)]), 1.0)


def _draw_nodule(chest: Chest, finding: Finding, contrast: float) -> Box | None:
    """A ball of tissue, lobed, in a third of a lung."""
    frame, random = chest.frame, np.random.default_rng(finding.seed)
    x0, y0 = zone_centre(chest, finding, random, 0.42)
    radius = {"small": 6.5, "moderate": 9.5, "large": 15.0}[finding.size] * random.uniform(0.88, 1.12)
    ball = ellipsoid(frame, (x0, y0), (radius, radius * 0.94), random.uniform(0, 3))
    for turn in random.uniform(0, 2 * np.pi, 3):
        lobe = (x0 + 0.42 * radius * np.cos(turn), y0 + 0.42 * radius * np.sin(turn))
        ball = np.maximum(ball, 0.8 * ellipsoid(frame, lobe, (radius * 0.66, radius * 0.6), turn))
    chest.extra += frame.blur(ball, 0.7) * TISSUE * (14 + 1.3 * radius) * contrast
    return frame.box(ball > 0.1)


def _draw_effusion(chest: Chest, finding: Finding, contrast: float) -> Box | None:
    """Fluid at the base, higher along the wall than in the middle, that hides dome and costophrenic angle."""
    frame, sign = chest.frame, side_sign(finding.side)
    random = np.random.default_rng(finding.seed)
    height = {"small": 42.0, "moderate": 68.0, "large": 108.0}[finding.size] * random.uniform(0.85, 1.15)
    x, y = frame.grid
    across = np.clip((sign * x / chest.body.width - 16) / 114, 0, 1.1)
    angle = 152 + chest.pose.inspiration
    centre_drop = {"small": 1.05, "moderate": 0.72, "large": 0.5}[finding.size]
    level = angle - height * (1 - centre_drop * (1 - across**2.4))
    depth = y - level.astype(np.float32)
    share = smooth_step(depth, -7, 9) * smooth_step(sign * x, 8, 16)
    before = chest.opaque
    chest.replace_air(0.93 * contrast * share)
    return frame.box(((chest.opaque - before) * chest.air) > 0.08 * contrast * chest.body.depth)


def _draw_device(chest: Chest, finding: Finding, contrast: float) -> Box | None:
    metal, box = draw_device(chest, finding, np.random.default_rng(finding.seed))
    chest.extra += metal * contrast
    return box


_DRAWERS: dict[str, Callable[[Chest, Finding, float], Box | None]] = {
    # In this order: what shapes the vessels, then what fills the lung, then metal, which covers everything.
    "Cardiomegaly": _heart_box,
    "Edema": _draw_edema,
    "Pneumothorax": _draw_pneumothorax,
    "Consolidation": _draw_consolidation,
    "Lung Lesion": _draw_nodule,
    "Pleural Effusion": _draw_effusion,
    "Support Devices": _draw_device,
}
