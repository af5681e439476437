"""Which patients are for training, validation and test; called by `ingest` once all studies are known."""

import hashlib
from collections.abc import Iterable, Mapping

from preprocessing.errors import InputError

SPLITS = ("training", "validation", "test")
"""Names as MONAI's decathlon-style datalists have them."""

TRAINING_OR_VALIDATION = "training or validation"
"""Official part of data sets that set patients apart for test alone: those of this part are divided by hash."""

_OFFICIAL = {
    "train_val": TRAINING_OR_VALIDATION,
    "training": "training",
    "train": "training",
    "validation": "validation",
    "valid": "validation",
    "validate": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}


def split_of(patient: str, seed: int, fractions: tuple[float, float, float]) -> str:
    """The split of a patient: SHA-256 of seed and patient as a number in [0, 1), cut at the fractions.

    It depends on nothing but this patient, so that one patient more or less moves nobody else.
    """
    digest = hashlib.sha256(f"{seed}\0{patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    training, validation, _ = fractions
    if place < training:
        return "training"
    return "validation" if place < training + validation else "test"


def official_split(name: str) -> str | None:
    """The split that a data set's own name for it means ("train", "val", "train_val", ...); `None` for others."""
    return _OFFICIAL.get(name.strip().lower())


def assign_splits(
    patients: Iterable[str], official: Mapping[str, set[str]], seed: int, fractions: tuple[float, float, float]
) -> dict[str, str]:
    """The split of every patient: the official one where there is one, else by hash.

    Patients of `TRAINING_OR_VALIDATION` are divided by the same hash in the proportion of these two, and none of them
    is for test.

    Args:
        patients: pseudonyms.
        official: patient to the official splits of that patient's images.
        seed: changes the whole division.
        fractions: of patients in training, validation and test.

    Raises:
        InputError: when a patient is in two official splits.
    """
    torn = sum(len(names) > 1 for names in official.values())
    if torn:
        raise InputError(
            f"the manifest or data set puts {torn} patients into more than one split; "
            "give each patient's rows the same split"
        )
    splits = {}
    for patient in patients:
        given = next(iter(official.get(patient) or ("",)))
        if given == TRAINING_OR_VALIDATION:
            given = split_of(patient, seed, _without_test(fractions))
        splits[patient] = given or split_of(patient, seed, fractions)
    return splits


def _without_test(fractions: tuple[float, float, float]) -> tuple[float, float, float]:
    """Fractions of training and validation in the same proportion; all is training where both are none."""
    training, validation, _ = fractions
    both = training + validation
    return (training / both, 1 - training / both, 0.0) if both else (1.0, 0.0, 0.0)
