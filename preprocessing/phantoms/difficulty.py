"""How hard synthetic studies are, as numbers; part of the phantom generator (see `phantoms`)."""

from dataclasses import dataclass

LABELS = (
    "No Finding",
    "Cardiomegaly",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
"""Label names, CheXpert's, in the order of the columns of the tables."""


@dataclass(frozen=True)
class Difficulty:
    """What makes a set of synthetic studies easy or hard.

    Args:
        contrast: factor on the attenuation (for the heart, the enlargement) that a finding adds; 1 is a textbook case.
        overlap: 0 to 1; how strong ribs, vessels and look-alikes (skin folds, fat pads, calcified cartilage) are.
        noise: standard deviation of the mottle behind the lungs, in units of log attenuation at 256 pixels.
        variation: 0 to 1; spread of anatomy, positioning, inspiration and exposure between studies.
        findings_per_study: mean number of kinds of finding (devices included) that a study is drawn with.
        uncertainty: chance that a finding is drawn faintly and reported as possible.
        label_noise: chance that an entry of the training labels is wrong.
    """

    contrast: float
    overlap: float
    noise: float
    variation: float
    findings_per_study: float
    uncertainty: float
    label_noise: float

    def __post_init__(self) -> None:
        ranges = {
            "contrast": (0.0, 2.0),
            "overlap": (0.0, 1.0),
            "noise": (0.0, 0.5),
            "variation": (0.0, 1.0),
            "findings_per_study": (0.0, 3.0),
            "uncertainty": (0.0, 1.0),
            "label_noise": (0.0, 0.5),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"difficulty {name} must be between {low} and {high}, not {getattr(self, name)}")


DIFFICULTIES = {
    "easy": Difficulty(
        contrast=1.0,
        overlap=0.3,
        noise=0.005,
        variation=0.5,
        findings_per_study=1.3,
        uncertainty=0.05,
        label_noise=0.0,
    ),
    "medium": Difficulty(
        contrast=0.6,
        overlap=0.7,
        noise=0.010,
        variation=0.8,
        findings_per_study=1.4,
        uncertainty=0.12,
        label_noise=0.05,
    ),
    "hard": Difficulty(
        contrast=0.38,
        overlap=1.0,
        noise=0.018,
        variation=1.0,
        findings_per_study=1.5,
        uncertainty=0.2,
        label_noise=0.1,
    ),
}
"""Named levels. At `easy` a reader misses nothing; from `medium` on a classifier does not saturate."""
