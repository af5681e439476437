"""How good a classifier is: predictions of the held-out splits, figures with intervals, and a page to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from local_mi.calibration import apply_temperature
from local_mi.checkpoints import read_record
from local_mi.datalist import read_datalist
from local_mi.errors import ConfigurationError
from local_mi.evaluation import Difference, Metric, compare_scores, evaluate_scores, write_metrics_tables
from local_mi.scores import Scores, combine_views, read_scores
from local_mi.start import versions

from pipelines.bundle import CLASSIFIER, inference, run_configuration
from pipelines.case_gallery import Case, case_pictures, choose_cases
from pipelines.ground import GroundingModel, load_grounding_model
from pipelines.results_page import write_evaluation_page
from preprocessing.lexicon import rule_pack

CASES_PER_LABEL = 4


@dataclass(frozen=True)
class Evaluated:
    """Where the results are, and the figures themselves."""

    page: Path
    table: Path
    metrics: list[Metric]
    differences: list[Difference]

    def value(self, label: str, metric: str) -> float | None:
        """One figure, blank labels left out."""
        return next(m.value for m in self.metrics if (m.label, m.metric, m.blanks) == (label, metric, "masked"))

    def lines(self) -> list[str]:
        """AUROC of every label and of all, and what differs from another run, with intervals, for people."""
        shown = [m for m in self.metrics if m.metric == "auroc" and m.blanks == "masked"]
        lines = [f"{m.label}\tauroc\t{_figure(m.value, m.low, m.high)}" for m in shown]
        differences = [d for d in self.differences if d.metric == "auroc" and d.blanks == "masked"]
        return lines + [f"{d.label}\tdifference\t{_figure(d.difference, d.low, d.high)}" for d in differences]


def evaluate_classifier(
    store: Path,
    run: Path,
    *,
    against: Path | None = None,
    views: Literal["mean", "max"] = "mean",
    resamples: int = 1000,
    seed: int = 0,
    specificity: float = 0.9,
    show_sentences: bool = False,
    overrides: Mapping[str, Any],
) -> Evaluated:
    """Evaluate a run on the test split of a store; thresholds and temperatures are chosen on its validation split.

    Writes into the run: `predictions_validation.csv`, `predictions_test.csv`, `metrics.json`, `metrics.csv` and
    `evaluation.html`.

    Args:
        store: the data.
        run: folder of a `train` run.
        against: folder of another run with the same labels, for paired differences.
        views: how the images of a study are combined.
        resamples: of the test patients.
        seed: of the resamples.
        specificity: at which the sensitivity is given.
        show_sentences: whether sentences of reports may stand on the page.
        overrides: configuration keys of inference.

    Raises:
        ConfigurationError: a run or the store cannot be used, or the two runs have other labels.
    """
    names = run_configuration(run, "train")["label_names"]
    if against is not None and run_configuration(against, "train")["label_names"] != names:
        raise ConfigurationError(
            f"{against} has other labels than {run}; compare runs trained on the same `label_names`"
        )
    validation, test = (predicted(store, run, names, split, views, overrides) for split in ("validation", "test"))
    metrics = evaluate_scores(test, validation, resamples=resamples, seed=seed, specificity=specificity)
    differences = []
    if against is not None:
        other = predicted(store, against, names, "test", views, overrides)
        differences = compare_scores(test, other, resamples=resamples, seed=seed)
    table, page = run / "metrics.json", run / "evaluation.html"
    facts = _facts(run, against, test, views, resamples, seed) | {"specificity": specificity}
    write_metrics_tables(metrics, differences, str(table), str(run / "metrics.csv"), facts)
    write_evaluation_page(
        page,
        title="Evaluation of a chest radiograph classifier",
        facts={name.replace("_", " "): _words(value) for name, value in facts.items() if name != "versions"},
        metrics=metrics,
        test=test,
        scaled=_scaled(test, metrics),
        differences=differences,
        cases=cases_with_pictures(store / "datalist.json", test, thresholds(metrics), _grounding_model_of(run)),
        show_sentences=show_sentences,
    )
    return Evaluated(page, table, metrics, differences)


def predicted(
    store: Path,
    run: Path,
    label_names: Sequence[str],
    split: str,
    views: Literal["mean", "max"],
    overrides: Mapping[str, Any],
) -> Scores:
    """A run's predictions on a split, a row a study."""
    predictions = inference(store, run, overrides, split, f"predictions_{split}")
    return combine_views(read_scores(str(predictions), str(store / "datalist.json"), split, label_names), views)


def thresholds(metrics: Sequence[Metric]) -> dict[str, float]:
    """Those that were chosen on validation, by label."""
    return {m.label: m.value for m in _chosen(metrics, "threshold") if m.value is not None}


def cases_with_pictures(
    datalist: Path, test: Scores, by_label: Mapping[str, float], model: GroundingModel | None
) -> list[Case]:
    """Right and wrong cases of every label that has a threshold."""
    cases = choose_cases(test, by_label, CASES_PER_LABEL)
    items = read_datalist(str(datalist))["test"]
    sentences = {str(datalist.parent / item["image"]): item.get("sentences", []) for item in items}
    return case_pictures(cases, sentences, model, rule_pack())


def _chosen(metrics: Sequence[Metric], name: str) -> list[Metric]:
    return [m for m in metrics if m.metric == name and m.blanks == "masked"]


def _scaled(test: Scores, metrics: Sequence[Metric]) -> Scores | None:
    """Probabilities after each label's temperature; as they were where it has none."""
    temperatures = {m.label: m.value for m in _chosen(metrics, "temperature")}
    values = np.array([temperatures.get(name) or 1.0 for name in test.label_names])
    return replace(test, probabilities=apply_temperature(test.probabilities, values)) if temperatures else None


def grounding_model(pretraining: Path) -> GroundingModel | None:
    """The joint network of a pretraining run; None where it is not there: pictures then come without maps."""
    try:
        return load_grounding_model(pretraining)
    except (ConfigurationError, OSError):
        return None


def _grounding_model_of(run: Path) -> GroundingModel | None:
    """That of the pretraining that a classifier started from, where the weights lie in its run folder still."""
    pretrained = run_configuration(run, "train").get("pretrained")
    return grounding_model(Path(pretrained).resolve().parent.parent) if pretrained else None


def _facts(run: Path, against: Path | None, test: Scores, views: str, resamples: int, seed: int) -> dict[str, Any]:
    record = read_record(str(run / "models" / CLASSIFIER)) or {}
    return {
        "run": run.name,
        "encoder": record.get("encoder"),
        "weights_sha256": record.get("sha256"),
        "datalist_sha256": record.get("datalist_sha256"),
        "against": against.name if against else None,
        "studies": len(test.study),
        "patients": len(np.unique(test.patient)),
        "views_of_a_study": views,
        "resamples": resamples,
        "seed": seed,
        "versions": versions(),
    }


def _figure(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _words(value: Any) -> str:
    return "none" if value is None else str(value)
