"""From a study's predictions to its tables: figures with intervals, paired tests between arms, and checks.

A figure is the mean over seeds of the mean AUROC over labels; its interval resamples test patients, the same for all
cells, so that differences between arms are paired. The spread between seeds stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from local_mi.bootstrap import interval, paired_p, patient_weights
from local_mi.comparison import delong_p
from local_mi.errors import ConfigurationError
from local_mi.labels import SEVERITY_LABELS
from local_mi.metrics import label_auroc
from local_mi.replicates import auroc_replicates
from local_mi.scores import Scores, combine_views, read_scores
from torch import from_numpy

from pipelines.study import ENCODERS, Arm, Outcome, check_pretrainings, initial_of, reference_arm
from pipelines.study_cells import OWN, Cell, Classifier, PixelProbe, Study
from pipelines.study_data import straddling_patients

Doubles = npt.NDArray[np.float64]
MEAN = "mean"  # in place of a label's name: the mean over the labels but for grades of an edema
PAIRS = (("local", "global"), ("local+global", "global"), ("local+global", "local"))
"""Objectives that are compared; each is compared with image-only besides."""
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Figure:
    """One figure of the table.

    Args:
        arm: how the encoder came about.
        encoder: `frozen` or `finetune`.
        fraction: of the training patients' labels.
        label: a name, or `MEAN`.
        value: AUROC, mean over seeds; None where undefined.
        low: end of the 95 % interval over test patients.
        high: the other end.
        seeds: how many there are.
        spread: standard deviation between seeds; None of one.
        degenerate: resamples in which it is undefined.
        reason: why it is undefined, else empty.
    """

    arm: str
    encoder: str
    fraction: float
    label: str
    value: float | None
    low: float | None
    high: float | None
    seeds: int
    spread: float | None
    degenerate: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """The difference of two arms on the same test patients, seeds and labels.

    Args:
        first: arm; the difference is first less second.
        second: arm.
        encoder: `frozen` or `finetune`.
        fraction: of the training patients' labels.
        label: a name, or `MEAN`.
        difference: of the AUROC, mean over seeds; None where undefined.
        low: end of the 95 % interval over test patients.
        high: the other end.
        p: two-sided, by bootstrap.
        p_holm: the same, corrected (Holm 1979) for all comparisons of means; None for single labels.
        delong_p: of DeLong's test with the first seed's classifiers; None for means.
    """

    first: str
    second: str
    encoder: str
    fraction: float
    label: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    delong_p: float | None


@dataclass(frozen=True)
class Check:
    """A question whose answer is known beforehand: what is expected, what was found, whether that holds."""

    name: str
    expected: str
    found: str
    holds: bool | None


@dataclass(frozen=True)
class StudyResults:
    """All that a study says, and which cells could not be done."""

    figures: list[Figure]
    comparisons: list[Comparison]
    checks: list[Check]
    failed: dict[str, str]


@dataclass(frozen=True, eq=False)
class _Sample:
    """AUROC of a row of the table: `values` (seeds, labels), `replicates` (seeds, resamples, labels), first scores."""

    values: Doubles
    replicates: Doubles
    first: Scores


def predicted_scores(study: Study, cell: Cell, split: str = "test") -> Scores:
    """A classifier's predictions on a split, a row a study: the mean over its views."""
    predictions = study.folder / cell.name / f"predictions_{split}.csv"
    datalist = study.folder / OWN / "datalist.json"
    return combine_views(read_scores(str(predictions), str(datalist), split, study.label_names), "mean")


def study_results(outcome: Outcome) -> StudyResults:
    """Everything that is said of a study's cells."""
    settings = outcome.study.settings
    sampler = _Sampler(outcome)
    rows = [
        (arm, encoder, fraction)
        for encoder in ENCODERS
        for fraction in settings["label_fractions"]
        for arm in outcome.arms
    ]
    samples = {row: sampler.sample([outcome.classifier(*row, seed) for seed in settings["seeds"]]) for row in rows}
    floor = {
        fraction: sampler.sample([PixelProbe(fraction, seed) for seed in settings["seeds"]])
        for fraction in settings["label_fractions"]
    }
    figures = [
        figure
        for (arm, encoder, fraction), sample in samples.items()
        for figure in sampler.figures(arm.name, encoder, fraction, sample)
    ]
    for fraction, sample in floor.items():
        figures += sampler.figures("pixels", "frozen", fraction, sample)
    pairs = compared_arms(outcome.arms)
    comparisons = [
        comparison
        for encoder in ENCODERS
        for fraction in settings["label_fractions"]
        for first, second in pairs
        for comparison in sampler.compare(
            first, second, encoder, fraction, samples[first, encoder, fraction], samples[second, encoder, fraction]
        )
    ]
    failed = {cell.name: result["failed"] for cell, result in outcome.cells.items() if "failed" in result}
    return StudyResults(figures, with_holm(comparisons), _checks(outcome, sampler), failed)


def compared_arms(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Arms of the same estimator two by two (`PAIRS`), then each against image-only."""
    pretrained = [arm for arm in arms if arm.objective]
    pairs = [
        (first, second)
        for better, worse in PAIRS
        for first in pretrained
        for second in pretrained
        if (first.objective, second.objective) == (better, worse) and first.estimator == second.estimator
    ]
    return pairs + [(arm, other) for arm in pretrained for other in arms if other.objective is None]


class _Sampler:
    """AUROC of cells in the same resamples of the test patients."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._weights: npt.NDArray[np.integer] | None = None
        self._studies: npt.NDArray[np.str_] | None = None
        names = outcome.study.label_names
        self.names = names
        self.averaged = [k for k, name in enumerate(names) if name not in SEVERITY_LABELS]

    def sample(self, cells: Sequence[Cell]) -> _Sample | None:
        """Of the cells that are done; None where none is."""
        done = [cell for cell in cells if "failed" not in self._outcome.cells[cell]]
        scores = [predicted_scores(self._outcome.study, cell) for cell in done]
        if not scores:
            return None
        replicates = np.stack([auroc_replicates(of_cell, self._weights_for(of_cell)) for of_cell in scores])
        values = np.stack([label_auroc(from_numpy(s.probabilities), from_numpy(s.labels)) for s in scores])
        return _Sample(values, replicates, scores[0])

    def _weights_for(self, scores: Scores) -> npt.NDArray[np.integer]:
        if self._weights is None or self._studies is None:
            resamples = self._outcome.study.settings["resamples"]
            self._weights = patient_weights(scores.patient, resamples, BOOTSTRAP_SEED)
            self._studies = scores.study
        if not np.array_equal(self._studies, scores.study):
            raise ConfigurationError("cells of the study predict different test studies; delete the folder, begin anew")
        return self._weights

    def columns(self, values: Doubles) -> dict[str, Doubles]:
        """Values by label along the last axis, and first their mean over the labels that are defined.

        Which labels are defined is taken from the whole test split: a resample without one of them is degenerate.
        """
        defined = [k for k in self.averaged if np.isfinite(values[..., k]).any()]
        mean = values[..., defined].mean(axis=-1) if defined else np.full(values.shape[:-1], np.nan)
        return {MEAN: mean} | {name: values[..., k] for k, name in enumerate(self.names)}

    def figures(self, arm: str, encoder: str, fraction: float, sample: _Sample | None) -> list[Figure]:
        """The mean and each label's."""
        if sample is None:
            return [Figure(arm, encoder, fraction, MEAN, None, None, None, 0, None, 0, "no cell could be done")]
        rows = []
        replicates = self.columns(sample.replicates)
        for label, values in self.columns(sample.values).items():
            if not np.isfinite(values).all():
                reason = "no positive or no negative among the test studies"
                rows.append(Figure(arm, encoder, fraction, label, None, None, None, len(values), None, 0, reason))
                continue
            low, high, degenerate = interval(replicates[label].mean(axis=0))
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            value = float(values.mean())
            rows.append(Figure(arm, encoder, fraction, label, value, low, high, len(values), spread, degenerate, ""))
        return rows

    def compare(
        self, first: Arm, second: Arm, encoder: str, fraction: float, a: _Sample | None, b: _Sample | None
    ) -> list[Comparison]:
        """First less second: the mean and each label."""
        if a is None or b is None or len(a.values) != len(b.values):
            nothing = (None, None, None, None, None, None)
            return [Comparison(first.name, second.name, encoder, fraction, MEAN, *nothing)]
        of_a, of_b = self.columns(a.replicates), self.columns(b.replicates)
        values_a, values_b = self.columns(a.values), self.columns(b.values)
        rows = []
        for label in of_a:
            difference = float((values_a[label] - values_b[label]).mean())
            if not np.isfinite(difference):
                continue
            resampled = of_a[label].mean(axis=0) - of_b[label].mean(axis=0)
            low, high, _ = interval(resampled)
            delong = None if label == MEAN else delong_p(a.first, b.first, self.names.index(label))
            found = (difference, low, high, paired_p(resampled), None, delong)
            rows.append(Comparison(first.name, second.name, encoder, fraction, label, *found))
        return rows


def with_holm(comparisons: list[Comparison]) -> list[Comparison]:
    """Corrected p-values of the comparisons of means: the smallest times their number, and so on, never decreasing."""
    means = sorted((c.p, k) for k, c in enumerate(comparisons) if c.label == MEAN and c.p is not None)
    corrected, largest = {}, 0.0
    for place, (p, k) in enumerate(means):
        largest = max(largest, min(1.0, p * (len(means) - place)))
        corrected[k] = largest
    return [replace(c, p_holm=corrected.get(k)) for k, c in enumerate(comparisons)]


def _checks(outcome: Outcome, sampler: _Sampler) -> list[Check]:
    straddling = straddling_patients(outcome.study.folder)
    checks = [Check("patients in more than one split", "0", str(straddling), straddling == 0)]
    arm = reference_arm(outcome.arms)
    if arm is None:
        return checks
    settings = outcome.study.settings
    first, most = settings["seeds"][0], max(settings["label_fractions"])
    original = initial_of(arm, outcome.chosen, first)
    if original is None:
        return checks
    repeated, shuffled = (
        Classifier(cell, "frozen", most, 0, first) for cell in check_pretrainings(outcome.arms, outcome.chosen, first)
    )
    checks.append(_repeat_check(outcome, Classifier(original, "frozen", most, 0, first), repeated))
    bare = sampler.sample([outcome.classifier(Arm(None, None), "frozen", most, first)])
    mixed = sampler.sample([shuffled])
    if bare is not None and mixed is not None:
        checks.append(_shuffle_check(sampler, arm, mixed, bare))
    else:
        checks.append(Check("shuffled reports", "no gain", outcome.cells[shuffled].get("failed", "not done"), None))
    return checks


def _repeat_check(outcome: Outcome, original: Cell, repeated: Cell) -> Check:
    name, expected = "the same seed again: pretraining, then a frozen classifier", "the same predictions, bit for bit"
    if any("failed" in outcome.cells[cell] for cell in (original, repeated)):
        return Check(name, expected, "not done", None)
    folder = outcome.study.folder
    files = [Path(folder / cell.name / "predictions_test.csv").read_bytes() for cell in (original, repeated)]
    same = files[0] == files[1]
    return Check(name, expected, "the same" if same else "different", same)


def _shuffle_check(sampler: _Sampler, arm: Arm, mixed: _Sample, bare: _Sample) -> Check:
    gain = float(sampler.columns(mixed.values)[MEAN].mean() - sampler.columns(bare.values)[MEAN].mean())
    resampled = (sampler.columns(mixed.replicates)[MEAN] - sampler.columns(bare.replicates)[MEAN])[0]
    low, high, _ = interval(resampled)
    if low is None or high is None:
        return Check("shuffled reports", "no gain", "undefined", None)
    found = f"{gain:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    return Check(f"{arm.name} with shuffled reports, frozen, against random weights", "no gain", found, low <= 0)
