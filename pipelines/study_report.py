"""A study from its command to its report: cells, results, then tables and a page in the study's folder.

study.json       settings, versions, data, choices and what they were made by, figures
figures.csv      a row an arm, encoder, share of labels and label
comparisons.csv  a row a pair of arms, encoder, share of labels and label
study.html       all of it to look at
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import nan
from pathlib import Path
from typing import Any

from local_mi.evaluation import evaluate_scores
from local_mi.files import write_csv, write_json

from pipelines.case_gallery import Case
from pipelines.evaluation import cases_with_pictures, grounding_model, thresholds
from pipelines.phantom_store import Step
from pipelines.results_page import write_study_page
from pipelines.results_plots import EfficiencyPoint
from pipelines.study import (
    ENCODERS,
    Arm,
    Outcome,
    initial_of,
    provenance,
    reference_arm,
    run_cells_of_study,
    scale_settings,
)
from pipelines.study_cells import OWN
from pipelines.study_data import data_facts
from pipelines.study_results import MEAN, Comparison, Figure, StudyResults, predicted_scores, study_results

QUANTITY = "mean AUROC"
COUNTS = "{images} images, {studies} studies ({studies_with_report} with a report), {patients} patients"


@dataclass(frozen=True)
class StudyReport:
    """Where a study's results are, and what they say."""

    page: Path
    results: StudyResults

    def text(self) -> str:
        """The table of means and their comparisons, for people."""
        figures = [figure for figure in self.results.figures if figure.label == MEAN]
        lines = [f"{QUANTITY} [95 % interval] of held-out studies"]
        lines += [f"{f.encoder:<9}{f.fraction:>7.0%}  {f.arm:<22}{_interval(f.value, f.low, f.high)}" for f in figures]
        lines.append("differences [95 % interval], p, p corrected for all of them (Holm)")
        for c in self.results.comparisons:
            if c.label == MEAN:
                p = "" if c.p is None or c.p_holm is None else f"  p {c.p:.2g}, {c.p_holm:.2g}"
                what = f"{c.first} - {c.second}"
                lines.append(
                    f"{c.encoder:<9}{c.fraction:>7.0%}  {what:<42}{_interval(c.difference, c.low, c.high, sign='+')}{p}"
                )
        lines += [f"check: {check.name}: {check.found}" for check in self.results.checks]
        lines += [f"not done: {name}: {reason}" for name, reason in self.results.failed.items()]
        return "\n".join(lines)


def run_study(folder: Path, store: Path | None, scale: str, workers: int | None, step: Step) -> StudyReport:
    """Do a study, or what is left of it, and write its report.

    Args:
        folder: of the study.
        store: the data; None makes phantoms.
        scale: of `study.yaml`.
        workers: see `study.run_cells_of_study`, as for the errors.
        step: see there.
    """
    outcome = run_cells_of_study(folder, store, scale_settings(scale), workers, step)
    with step("tables and page"):
        return write_report(outcome, scale)


def write_report(outcome: Outcome, scale: str) -> StudyReport:
    """Write tables and page of a study's cells."""
    folder = outcome.study.folder
    results = study_results(outcome)
    made = provenance(outcome) | {"scale": scale, "data": data_facts(folder)}
    tables = {name: _rows(getattr(results, name)) for name in ("figures", "comparisons", "checks")}
    write_json(folder / "study.json", made | tables)
    for name, kind in (("figures", Figure), ("comparisons", Comparison)):
        header = [field.name for field in fields(kind)]
        write_csv(folder / f"{name}.csv", header, [list(row.values()) for row in tables[name]])
    page = folder / "study.html"
    means = [figure for figure in results.figures if figure.label == MEAN]
    test, cases = _example(outcome)
    write_study_page(
        page,
        title="What pretraining is worth",
        facts=_facts(outcome, results, made),
        rows=[_shown(figure) for figure in means],
        points=[EfficiencyPoint(f.arm, f.encoder, f.fraction, *map(_number, (f.value, f.low, f.high))) for f in means],
        quantity=QUANTITY,
        comparisons=[_compared(c) for c in results.comparisons if c.label == MEAN],
        sanity=[
            {"name": c.name, "expected": c.expected, "found": c.found, "verdict": _verdict(c.holds)}
            for c in results.checks
        ],
        cases=cases,
        test=test,
    )
    return StudyReport(page, results)


def _example(outcome: Outcome) -> tuple[Any, list[Case]]:
    """Curves and cases of one classifier: the reference arm, finetuned on the most labels with the first seed."""
    settings = outcome.study.settings
    arm = reference_arm(outcome.arms) or Arm(None, None)
    first = settings["seeds"][0]
    cell = outcome.classifier(arm, ENCODERS[-1], max(settings["label_fractions"]), first)
    if "failed" in outcome.cells[cell]:
        return None, []
    validation, test = (predicted_scores(outcome.study, cell, split) for split in ("validation", "test"))
    chosen = thresholds(evaluate_scores(test, validation, resamples=1))
    initial = initial_of(arm, outcome.chosen, first)
    model = grounding_model(outcome.study.folder / initial.name) if initial else None
    return test, cases_with_pictures(outcome.study.folder / OWN / "datalist.json", test, chosen, model)


def _facts(outcome: Outcome, results: StudyResults, made: dict[str, Any]) -> dict[str, str]:
    settings, data = outcome.study.settings, made["data"]
    counts = {f"{split} split": COUNTS.format(**data[split]) for split in ("training", "validation", "test")}
    phantoms = settings.get("phantoms", {})
    difficulty = ", ".join(f"{name} {value}" for name, value in phantoms.get("difficulty", {}).items())
    kind = f"phantoms: {difficulty}" if _of_phantoms(outcome) else "a store"
    arm = reference_arm(outcome.arms)
    return {
        "data": kind,
        **counts,
        "test labels": "what the pictures show" if _of_phantoms(outcome) else "those of the store",
        "labels": ", ".join(outcome.study.label_names),
        "seeds": ", ".join(map(str, settings["seeds"])),
        "tuning": f"{len(settings['pretrain']['candidates'])} settings of pretraining and "
        f"{len(settings['finetune']['candidates'])} of finetuning for every arm, chosen on the validation split",
        "intervals": f"95 %, {settings['resamples']} resamples of the test patients, the same for all classifiers",
        "curves and cases": f"{arm.name if arm else 'image-only'}, finetuned, all labels, first seed",
        "cells that failed": str(len(results.failed)),
    }


def _of_phantoms(outcome: Outcome) -> bool:
    return (outcome.study.folder / "phantoms").is_dir()


def _shown(figure: Figure) -> dict[str, Any]:
    return {
        "encoder": figure.encoder,
        "labels": f"{figure.fraction:.0%}",
        "pretraining": figure.arm,
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "reason": figure.reason,
        "SD between seeds": figure.spread,
        "seeds": figure.seeds,
    }


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "encoder": comparison.encoder,
        "labels": f"{comparison.fraction:.0%}",
        "compared": f"{comparison.first} - {comparison.second}",
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "reason": "" if comparison.difference is not None else "a cell could not be done",
        "p": comparison.p,
        "p_holm": comparison.p_holm,
    }


def _number(value: float | None) -> float:
    return nan if value is None else value


def _verdict(holds: bool | None) -> str:
    return "not known" if holds is None else "holds" if holds else "does not hold"


def _interval(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    if value is None or low is None or high is None:
        return "undefined"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _rows(records: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]
