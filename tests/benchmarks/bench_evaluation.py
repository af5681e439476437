"""All figures of a classifier with intervals by patient, here and by a loop over scikit-learn; prints a Markdown table.

100,000 predictions of 14 labels of 30,000 patients, as rare and as often blank as those of public archives, with 1,000
resamples of the patients. Every metric of `evaluate_scores` is computed, with thresholds and temperatures of a
validation split of 10,000, under both readings of blanks. The loop is what one would write: the rows of the drawn
patients, and scikit-learn's functions on them, for the three metrics of rank and the Brier score of each label, one
reading of blanks; it is timed on a few resamples and the time of all is extrapolated. On the same resamples both must
give the same replicates and intervals. Times are wall-clock, on as many cores as the machine has; memory is the peak of
the process that does nothing else.
"""

import os
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import numpy as np
from local_mi.bootstrap import interval, patient_weights
from local_mi.evaluation import compare_scores, evaluate_scores
from local_mi.replicates import metric_replicates
from local_mi.scores import Scores
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

ROWS, VALIDATION_ROWS, PATIENTS, LABELS, RESAMPLES = 100_000, 10_000, 30_000, 14, 1000
LOOPED = 3
"""Resamples that the loop is timed on."""
SPECIFICITY = 0.9


def predictions(rows: int, seed: int) -> Scores:
    """Labels positive in 1 % to 40 % of the known rows; half of them known everywhere, half blank in 60 %."""
    random = np.random.default_rng(seed)
    truth = random.random((rows, LABELS)) < np.geomspace(0.01, 0.4, LABELS)
    logits = np.where(truth, 1.5, 0) + random.normal(size=truth.shape) - 2
    blank = (random.random(truth.shape) < 0.6) & (np.arange(LABELS) % 2 == 1)
    uncertain = random.random(truth.shape) < 0.02
    patients = random.integers(0, PATIENTS * rows // ROWS, rows)
    names = np.array([f"{k:06d}" for k in range(rows)])
    return Scores(
        tuple(f"label {k}" for k in range(LABELS)),
        names,
        np.array([f"{k:06d}" for k in patients]),
        names,
        np.round(1 / (1 + np.exp(-logits)), 6),
        np.where(blank, np.nan, np.where(uncertain, -1.0, truth)),
    )


def looped(scores: Scores, drawn: np.ndarray) -> np.ndarray:
    """Replicates of a label by scikit-learn on repeated rows: (4, L)."""
    rows = np.repeat(np.arange(len(drawn)), drawn)
    values = np.empty((4, LABELS))
    for k in range(LABELS):
        labels, said = scores.labels[rows, k], scores.probabilities[rows, k]
        known = (labels == 0) | (labels == 1)
        labels, said = labels[known], said[known]
        false_positive_rate, sensitivity, _ = roc_curve(labels, said, drop_intermediate=False)
        values[:, k] = (
            roc_auc_score(labels, said),
            average_precision_score(labels, said),
            sensitivity[1 - false_positive_rate >= SPECIFICITY - 1e-9].max(),
            brier_score_loss(labels, said),
        )
    return values


def alone(run: Callable[[], Any]) -> tuple[float, float, float]:
    """Wall-clock seconds, processor seconds and MiB of `run` in a process of its own, memory before it not counted."""
    context = get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin, processor = time.perf_counter(), time.process_time()
        run()
        times = time.perf_counter() - begin, time.process_time() - processor
        send.send((*times, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))

    process = context.Process(target=child)
    process.start()
    measured: tuple[float, float, float] = receive.recv()
    process.join()
    return measured


def check_same(scores: Scores) -> None:
    """Replicates and intervals are the loop's on the first resamples, which are the first of more."""
    weights = patient_weights(scores.patient, LOOPED, seed=0)
    ours = metric_replicates(scores, weights, SPECIFICITY, None)
    loop = np.stack([looped(scores, row) for row in weights], axis=2)  # (4, L, R)
    for name, theirs in zip(("auroc", "auprc", "sensitivity_at_specificity", "brier"), loop, strict=True):
        np.testing.assert_allclose(ours[name][:-1], theirs, rtol=1e-9)
        for mine, other in zip(ours[name][:-1], theirs, strict=True):
            np.testing.assert_allclose(interval(mine), interval(other), rtol=1e-9)


def main() -> None:
    test, validation = predictions(ROWS, 0), predictions(VALIDATION_ROWS, 1)
    check_same(test)
    weights = patient_weights(test.patient, LOOPED, seed=0)
    ways: dict[str, Callable[[], Any]] = {
        "`evaluate_scores`, everything": lambda: evaluate_scores(test, validation, resamples=RESAMPLES),
        "`compare_scores`": lambda: compare_scores(test, test, resamples=RESAMPLES, seed=0),
        "one reading of blanks, with the pool": lambda: metric_replicates(
            test, patient_weights(test.patient, RESAMPLES, seed=0), SPECIFICITY, None
        ),
        f"loop over scikit-learn, {LOOPED} resamples": lambda: [looped(test, row) for row in weights],
    }
    print(f"\n{ROWS:,} predictions, {LABELS} labels, {RESAMPLES:,} resamples, {os.cpu_count()} cores\n")
    print("| what | seconds | processor seconds | peak memory above the data, MiB |\n|---|---|---|---|")
    measured: list[tuple[float, float]] = []
    for name, run in ways.items():
        seconds, processor, memory = alone(run)
        print(f"| {name} | {seconds:.1f} | {processor:.1f} | {memory:.0f} |", flush=True)
        measured.append((seconds, processor))
    fast, slow = measured[-2], [figure * RESAMPLES / LOOPED for figure in measured[-1]]
    print(
        f"\nThe loop would need {slow[0]:.0f} s for all resamples, extrapolated: {slow[0] / fast[0]:.0f} times as long"
    )
    print(f"({slow[1] / fast[1]:.0f} times the processor time), with the same replicates and intervals.\n")


if __name__ == "__main__":
    main()
