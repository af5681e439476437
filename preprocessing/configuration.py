"""What an ingest run is asked to do; all of it is stamped on the store, but for where the work is done."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preprocessing.datasets import DATASETS, FOLDER
from preprocessing.errors import InputError
from preprocessing.headings import heading_vocabulary
from preprocessing.lexicon import rule_pack
from preprocessing.preparation import INTERPOLATIONS, Preparation
from preprocessing.rendering import PRESETS
from preprocessing.report_reading import ReportRules
from preprocessing.sections import POLICIES
from preprocessing.selection import SelectionPolicy

IMAGE_FORMATS = ("npy", "png")
BIT_DEPTHS = (8, 16)
SELECTIONS = {
    "for_processing": ("reject", "convert"),
    "burned_in": ("reject", "accept"),
    "captures": ("reject", "accept"),
}
"""Choices of `selection.SelectionPolicy`."""

FILES = ("headings", "rules")
NOT_STAMPED = frozenset({"workers", "scheduler"})


@dataclass(frozen=True)
class IngestConfiguration:
    """What is stamped on the store, but for `workers` and `scheduler`, which change nothing in it.

    Args:
        dataset: public data set that the source is, one of `datasets.DATASETS`; `folder` for images of one's own.
        preset: way to render, one of `rendering.PRESETS`.
        size: side of the stored square in pixels.
        image_format: `npy` or `png`.
        bit_depth: of the stored images, 8 or 16.
        interpolation: how images are scaled, one of `preparation.INTERPOLATIONS`.
        crop: whether images are cut to the collimator or shutter that their header declares.
        reduced_resolution: whether JPEG 2000 is decoded at the lowest resolution that is enough: faster, not exact.
        for_processing: `reject` raw detector images, or `convert` them.
        burned_in: `reject` or `accept` images whose header says that text is burned in.
        captures: `reject` or `accept` secondary captures and colour.
        text_policy: which sections become sentences, one of `sections.POLICIES`.
        minimum_words: words that a sentence must have; redactions and numbers are not words.
        redact: whether what looks like an identifier is replaced in the sentences.
        headings: a hospital's own headings (see `rules/headings.yaml`).
        rules: a hospital's own rules for labels (see `rules/observations.yaml`).
        split_fractions: of patients in training, validation and test; they add up to 1.
        seed: of the split and of the contact sheet's sample.
        workers: processes that convert, on this machine.
        scheduler: address or file of a Dask scheduler, whose workers convert instead; blank for none.
    """

    dataset: str = FOLDER
    preset: str = "voi"
    size: int = 512
    image_format: str = "npy"
    bit_depth: int = 8
    interpolation: str = "area"
    crop: bool = False
    reduced_resolution: bool = False
    for_processing: str = "reject"
    burned_in: str = "reject"
    captures: str = "reject"
    text_policy: str = "findings+impression"
    minimum_words: int = 1
    redact: bool = False
    headings: Path | None = None
    rules: Path | None = None
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    workers: int = 1
    scheduler: str = ""

    def __post_init__(self) -> None:
        """Raises InputError for a value that cannot be used."""
        self._check_choice("dataset", DATASETS)
        self._check_choice("preset", PRESETS)
        self._check_choice("text_policy", POLICIES)
        self._check_choice("image_format", IMAGE_FORMATS)
        self._check_choice("bit_depth", BIT_DEPTHS)
        self._check_choice("interpolation", INTERPOLATIONS)
        for name, choices in SELECTIONS.items():
            self._check_choice(name, choices)
        wrong = {
            f"size is {self.size}; choose 16 to 8192 pixels": not 16 <= self.size <= 8192,
            f"workers is {self.workers}; choose at least 1": self.workers < 1,
            f"minimum words is {self.minimum_words}; choose at least 1": self.minimum_words < 1,
            f"split fractions are {self.split_fractions}; choose three that add up to 1": (
                len(self.split_fractions) != 3
                or min(self.split_fractions) < 0
                or abs(sum(self.split_fractions) - 1) > 1e-9
            ),
        }
        for message, holds in wrong.items():
            if holds:
                raise InputError(message)

    def _check_choice(self, name: str, choices: Iterable[Any]) -> None:
        value = getattr(self, name)
        if value not in choices:
            named = ", ".join(str(choice) for choice in choices)
            raise InputError(f"{name.replace('_', ' ')} is {value!r}; choose one of {named}")

    @property
    def preparation(self) -> Preparation:
        """How an image becomes an array."""
        return Preparation(
            self.preset, self.size, self.bit_depth, self.interpolation, self.crop, self.reduced_resolution
        )

    @property
    def selection(self) -> SelectionPolicy:
        """Which images are taken."""
        return SelectionPolicy(self.for_processing, self.burned_in, self.captures)

    def report_rules(self) -> ReportRules:
        """How reports are read.

        Raises:
            InputError: when a file of headings or rules is wrong.
        """
        vocabulary, pack = heading_vocabulary(self.headings), rule_pack(self.rules)
        return ReportRules(self.text_policy, self.minimum_words, self.redact, vocabulary, pack)

    def stamp(self) -> dict[str, Any]:
        """What two runs into one store must agree on; of files, what is in them and not where they lie."""
        values = {name: value for name, value in asdict(self).items() if name not in NOT_STAMPED}
        return values | {name: _digest(value) for name, value in values.items() if name in FILES}


def _digest(path: Path | None) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
