"""What is wrong with a synthetic patient: the findings of a study, drawn by lot.

Part of the phantom generator (see `phantoms`); `findings` draws them, `reports` words them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from preprocessing.phantoms.difficulty import Difficulty

SHARES = {
    "Cardiomegaly": 0.18,
    "Lung Lesion": 0.16,
    "Edema": 0.18,
    "Consolidation": 0.21,
    "Pneumothorax": 0.15,
    "Pleural Effusion": 0.25,
    "Support Devices": 0.24,
}
"""How often each kind of finding is drawn, when a study has `sum(SHARES.values())` kinds on average."""

ZONES = ("upper", "mid", "lower")
DEVICES = ("endotracheal tube", "central line", "pacemaker", "nasogastric tube", "sternal wires")


@dataclass(frozen=True)
class Finding:
    """One finding of a study.

    Args:
        label: its name in the tables.
        kind: what of it: for devices one of `DEVICES`, else "".
        side: "right", "left" or "" where it has none.
        zone: "upper", "mid", "lower" of the lung, or "".
        size: "small", "moderate", "large", or "".
        grade: 1 to 3 for edema, else 0.
        drawn: whether the picture shows it; a suspicion may be unfounded.
        certain: whether the report is sure of it.
        strength: factor on its contrast.
        distance: of an endotracheal tube's tip above the carina, cm.
        seed: of its shape.
    """

    label: str
    kind: str = ""
    side: str = ""
    zone: str = ""
    size: str = ""
    grade: int = 0
    drawn: bool = True
    certain: bool = True
    strength: float = 1.0
    distance: float = 0.0
    seed: int = 0


def sample_findings(random: np.random.Generator, difficulty: Difficulty) -> tuple[Finding, ...]:
    """The findings of one study: kinds are drawn independently, sides and zones are balanced."""
    factor = difficulty.findings_per_study / sum(SHARES.values())
    findings: list[Finding] = []
    for label, share in SHARES.items():
        chance, suspicion = random.random(2)
        if chance < share * factor:
            found = _SAMPLERS.get(label, _plain)(random, label)
            doubtful = label != "Support Devices" and random.random() < difficulty.uncertainty
            if doubtful:
                found = [
                    replace(f, certain=False, strength=0.55, size=f.size and "small", grade=min(f.grade, 1))
                    for f in found[:1]
                ]
            findings += found
        elif suspicion < 0.2 * difficulty.uncertainty and label != "Support Devices":
            findings += [
                replace(f, certain=False, drawn=False) for f in _SAMPLERS.get(label, _plain)(random, label)[:1]
            ]
    return tuple(replace(f, seed=int(random.integers(2**31))) for f in findings)


def _side(random: np.random.Generator) -> str:
    return "right" if random.random() < 0.5 else "left"


def _size(random: np.random.Generator) -> str:
    return str(random.choice(["small", "moderate", "large"], p=[0.45, 0.37, 0.18]))


def _plain(random: np.random.Generator, label: str) -> list[Finding]:
    return [Finding(label, size=_size(random))]


def _sided(random: np.random.Generator, label: str) -> list[Finding]:
    return [Finding(label, side=_side(random), size=_size(random))]


def _zoned(random: np.random.Generator, label: str) -> list[Finding]:
    return [Finding(label, side=_side(random), zone=str(random.choice(ZONES)), size=_size(random))]


def _effusions(random: np.random.Generator, label: str) -> list[Finding]:
    if random.random() < 0.68:
        return _sided(random, label)
    return [Finding(label, side=side, size=_size(random)) for side in ("right", "left")]


def _consolidations(random: np.random.Generator, label: str) -> list[Finding]:
    first = _zoned(random, label)
    if random.random() < 0.75:
        return first
    second = _zoned(random, label)
    return first if (second[0].side, second[0].zone) == (first[0].side, first[0].zone) else first + second


def _edema(random: np.random.Generator, label: str) -> list[Finding]:
    return [Finding(label, grade=int(random.choice([1, 2, 3], p=[0.35, 0.35, 0.3])))]


def _devices(random: np.random.Generator, label: str) -> list[Finding]:
    count = int(random.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
    kinds = random.choice(DEVICES, count, replace=False, p=[0.2, 0.28, 0.2, 0.2, 0.12])
    sides = {"central line": _side(random), "pacemaker": "left" if random.random() < 0.8 else "right"}
    tip = {"endotracheal tube": float(random.integers(2, 7))}
    return [
        Finding(label, kind=str(kind), side=sides.get(str(kind), ""), distance=tip.get(str(kind), 0.0))
        for kind in kinds
    ]


_SAMPLERS: dict[str, Callable[[np.random.Generator, str], list[Finding]]] = {
    "Lung Lesion": _zoned,
    "Edema": _edema,
    "Consolidation": _consolidations,
    "Pneumothorax": _sided,
    "Pleural Effusion": _effusions,
    "Support Devices": _devices,
}
