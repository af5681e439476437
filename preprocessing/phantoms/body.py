"""A synthetic patient's build, how they stood before the detector, and the outlines that follow from both.

Part of the phantom generator (see `phantoms`). Lengths are in mm of a standard adult; `Frame.pixels_per_mm` carries
the person's size.
"""

from dataclasses import dataclass

import numpy as np

from preprocessing.phantoms.canvas import Points, Table, spline

SIDES = ("right", "left")


@dataclass(frozen=True)
class Body:
    """What is the same in every study of a person; lengths in mm.

    Args:
        female: whether breast shadows are drawn.
        scale: size of the person, 1 for a standard adult.
        width: relative breadth of the chest.
        depth: thickness of the chest, front to back.
        wall: soft tissue between ribs and skin at the side.
        heart: relative size of the heart when it is not enlarged.
        tilt: of the heart's long axis, radians below the horizontal.
        knob: radius of the aortic arch.
        scoliosis: sideways deviation of the spine.
        rib_slope: how far a rib drops from back to front.
        rib_spacing: between neighbouring ribs at the spine.
        breast: radius of the breast shadow.
        tree: number from which the vessels grow.
    """

    female: bool
    scale: float
    width: float
    depth: float
    wall: float
    heart: float
    tilt: float
    knob: float
    scoliosis: float
    rib_slope: float
    rib_spacing: float
    breast: float
    tree: int


@dataclass(frozen=True)
class Pose:
    """How the person stood or lay for one study; lengths in mm.

    Args:
        view: "PA" or "AP".
        turn: sideways shift of what lies in front of the spine by rotation about the long axis.
        inspiration: how much lower than usual the diaphragm stands; negative is a shallow breath.
        right_dome, left_dome: height of the domes above the costophrenic angles.
        shoulders: how far the arms and the shoulder blades are turned out of the lungs, 0 to 1.
        gas: radius of the gas bubble in the stomach; 0 for none.
    """

    view: str
    turn: float
    inspiration: float
    right_dome: float
    left_dome: float
    shoulders: float
    gas: float


def sample_body(random: np.random.Generator, variation: float) -> Body:
    """A person; `variation` from 0 to 1 scales the spread around the average."""

    def around(mean: float, spread: float) -> float:
        return float(mean + variation * spread * np.clip(random.standard_normal(), -2.2, 2.2))

    female = bool(random.random() < 0.5)
    return Body(
        female=female,
        scale=around(0.97 if female else 1.03, 0.045),
        width=around(1.0, 0.05),
        depth=around(215, 18),
        wall=abs(around(26, 10)) + 6,
        heart=around(1.0, 0.055),
        tilt=around(0.62, 0.14),
        knob=around(16, 2.5),
        scoliosis=around(0, 4),
        rib_slope=around(62, 9),
        rib_spacing=around(25.5, 1.0),
        breast=around(66, 12) if female else 0.0,
        tree=int(random.integers(2**31)),
    )


def sample_pose(random: np.random.Generator, variation: float, view: str) -> Pose:
    """A positioning for a "PA" (upright, full breath) or "AP" (portable, shallow breath, shoulders in) exposure."""
    portable = view == "AP"

    def around(mean: float, spread: float) -> float:
        return float(mean + variation * spread * np.clip(random.standard_normal(), -2.2, 2.2))

    return Pose(
        view=view,
        turn=around(0, 8 if portable else 4),
        inspiration=around(-20 if portable else 0, 10),
        right_dome=around(44, 6),
        left_dome=around(34, 6),
        shoulders=float(np.clip(around(0.2 if portable else 0.8, 0.25), 0, 1)),
        gas=float(random.uniform(14, 32)) if random.random() < (0.35 if portable else 0.6) else 0.0,
    )


def side_sign(side: str) -> int:
    """-1 for the patient's right (left in the picture), 1 for the left."""
    return -1 if side == "right" else 1


def lung_outline(body: Body, pose: Pose, side: str) -> Points:
    """Closed outline of a lung in a frontal view, (N, 2) in mm."""
    w, low = body.width, pose.inspiration
    dome = pose.right_dome if side == "right" else pose.left_dome
    angle = 152 + low
    up = angle - dome
    points = [
        (34, -122), (58, -113), (80, -84), (101, -40), (116, 10), (126, 60 + low * 0.4), (131, 110 + low * 0.8),
        (130, angle), (130, angle), (118, angle - dome * 0.62), (96, up + 5), (70, up), (46, up + 5), (22, up + 15),
        (15, 70), (16, 20), (20, -30), (23, -80), (25, -108),
    ]  # fmt: skip
    return spline([(side_sign(side) * w * x, y) for x, y in points], closed=True)


def chest_wall(body: Body) -> Table:
    """Inner half width of the ribcage: heights and widths, mm, each (N,)."""
    heights = np.array([-135.0, -122, -105, -84, -40, 10, 60, 110, 160, 220])
    return heights, np.array([30, 58, 78, 93, 110, 122, 131, 136, 136, 132]) * body.width
