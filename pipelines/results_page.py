"""Results as one HTML file that opens anywhere, offline: tables, figures and cases, at the end of an evaluation.

Nothing in it is fetched from elsewhere. No id is on it, and words of a report only where the caller asks for them.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from local_mi.evaluation import Difference, Metric
from local_mi.files import write_text
from local_mi.scores import Scores, blanks_as_negative

from pipelines.case_gallery import OUTCOMES, Case
from pipelines.results_plots import (
    LEFT_OUT,
    EfficiencyPoint,
    calibration_plot,
    label_efficiency_plot,
    precision_recall_plot,
    roc_plot,
    undrawn_labels,
    undrawn_points,
)
from pipelines.results_tables import Row, Table, chosen_tables, differences_tables, metrics_tables, rows_tables


@dataclass(frozen=True)
class Section:
    """A part of the page; `plot` is a data URI, `cases` are cards by label."""

    anchor: str
    title: str
    paragraphs: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    plot: str = ""
    alt: str = ""
    cases: Sequence[tuple[str, Sequence[Mapping[str, Any]]]] = ()


def write_evaluation_page(
    path: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    metrics: Sequence[Metric],
    test: Scores,
    scaled: Scores | None,
    differences: Sequence[Difference],
    cases: Sequence[Case],
    show_sentences: bool = False,
) -> None:
    """Write how good one classifier is.

    Args:
        path: of the page.
        title: of the page.
        facts: what was evaluated, by name, in words.
        metrics: of `local_mi.evaluation.evaluate_scores`; may be empty, as may the other lists.
        test: a row a study.
        scaled: the same after temperature scaling, where that was done.
        differences: from another classifier.
        cases: with pictures.
        show_sentences: whether sentences of reports may be on the page, which may leave the hospital.

    Raises:
        OSError: the page cannot be written.
    """
    sections = [
        Section("facts", "What was evaluated", facts=facts),
        *_metrics_sections(metrics),
        *_curve_sections(test, scaled),
        _differences_section(differences),
        _cases_section(cases, show_sentences),
    ]
    _write_page(path, title, sections)


def write_study_page(
    path: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    rows: Sequence[Row],
    points: Sequence[EfficiencyPoint],
    quantity: str,
    comparisons: Sequence[Row],
    sanity: Sequence[Row],
    cases: Sequence[Case],
    test: Scores | None = None,
    scaled: Scores | None = None,
    show_sentences: bool = False,
) -> None:
    """Write what a study of several classifiers found.

    In the tables `low` and `high` become the interval of `value` or `difference`, and `reason` says why these are
    undefined.

    Args:
        path: of the page.
        title: of the page.
        facts: what was studied, by name, in words.
        rows: a row a classifier that was trained.
        points: of the label efficiency figure.
        quantity: what their `value` is, for instance `mean AUROC`.
        comparisons: a row a comparison of two of them.
        sanity: rows with `name`, `expected`, `found` and `verdict`.
        cases: with pictures.
        test: for curves of one classifier, a row a study.
        scaled: the same after temperature scaling.
        show_sentences: whether sentences of reports may be on the page, which may leave the hospital.

    Raises:
        OSError: the page cannot be written.
    """
    sections = [
        Section("facts", "What was studied", facts=facts),
        Section("sanity", "Checks", tables=rows_tables(sanity)),
        Section("results", "Results", tables=rows_tables(rows)),
        _efficiency_section(points, quantity),
        Section("comparisons", "Comparisons", tables=rows_tables(comparisons)),
        *([] if test is None else _curve_sections(test, scaled)),
        _cases_section(cases, show_sentences),
    ]
    _write_page(path, title, sections)


def _write_page(path: str | Path, title: str, sections: Iterable[Section]) -> None:
    """Write the sections that hold something."""
    source = files("pipelines").joinpath("results_page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filled = [s for s in sections if s.paragraphs or s.facts or s.tables or s.plot or s.cases]
    page = environment.from_string(source).render(title=title, sections=filled)
    write_text(path, page + "\n")


def _write_text(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8", newline="\n")


def _metrics_sections(metrics: Sequence[Metric]) -> list[Section]:
    words = (
        "Below a value stands its 95 % interval. A label that a report does not mention is once left out, and once "
        "counted as absent; uncertain ones are left out in both. Known are the studies that count for a label; of "
        "several labels, their sum."
    )
    return [
        Section("metrics", "Metrics on the test split", [words] if metrics else [], tables=metrics_tables(metrics)),
        Section("chosen", "Chosen on the validation split", tables=chosen_tables(metrics)),
    ]


def _differences_section(differences: Sequence[Difference]) -> Section:
    words = (
        "Below a difference stands its 95 % interval over resamples of patients, which the first p is of too. DeLong's "
        "test takes studies for independent, and is of the AUROC of one label."
    )
    paragraphs = [words] if differences else []
    return Section("differences", "Differences", paragraphs, tables=differences_tables(differences))


def _curve_sections(test: Scores, scaled: Scores | None) -> list[Section]:
    left_out, undrawn = undrawn_labels(test), undrawn_labels(blanks_as_negative(test))
    notes = _undrawn_note("Without a curve", undrawn)
    half = _undrawn_note(f"Without the curve of {LEFT_OUT}", [name for name in left_out if name not in undrawn])
    names = ", ".join(name for name in test.label_names if name not in undrawn)
    calibrated = ", ".join(name for name in test.label_names if name not in left_out)
    points = "Unmentioned labels are left out. Below the curves stand the numbers of studies behind their points."
    return [
        _figure_section("roc", "ROC curves", roc_plot(test), f"ROC curves of {names}", [*notes, *half]),
        _figure_section(
            "precision-recall",
            "Precision and recall",
            precision_recall_plot(test),
            f"Precision over recall of {names}",
            ["Chance is the prevalence.", *notes, *half],
        ),
        _figure_section(
            "calibration",
            "Calibration",
            calibration_plot(test, scaled),
            f"Observed share over predicted probability, and numbers of studies, of {calibrated}",
            [points, *_undrawn_note("Not drawn", left_out)],
        ),
    ]


def _undrawn_note(what: str, names: Sequence[str]) -> list[str]:
    why = "since studies with the finding, or studies without it, are missing"
    return [f"{what}, {why}: {', '.join(names)}."] if names else []


def _efficiency_section(points: Sequence[EfficiencyPoint], quantity: str) -> Section:
    undefined = undrawn_points(points)
    notes = [f"Not defined, and not drawn: {'; '.join(undefined)}."] if undefined else []
    plot = label_efficiency_plot(points, quantity)
    arms = ", ".join(dict.fromkeys(point.arm for point in points))
    alt = f"{quantity} over the share of the training patients, of {arms}"
    return _figure_section(
        "label-efficiency", "Label efficiency", plot, alt, ["Bars are 95 % intervals.", *notes] if points else []
    )


def _figure_section(anchor: str, title: str, svg: str, alt: str, notes: Sequence[str]) -> Section:
    return Section(anchor, title, paragraphs=notes, plot=_uri("svg+xml", svg.encode()) if svg else "", alt=alt)


def _cases_section(cases: Sequence[Case], show_sentences: bool) -> Section:
    """Cards by label; cases have numbers and no ids."""
    cards: dict[str, list[Mapping[str, Any]]] = {}
    for number, case in enumerate(cases, 1):
        cards.setdefault(case.label, []).append(_card(number, case, show_sentences))
    maps = any(case.has_map for case in cases)
    words = (
        "At the left the radiograph, at the right the same under the pretrained network's scores for what stands "
        "below: the redder, the higher."
    )
    return Section("cases", "Cases", paragraphs=[words] if maps else [], cases=list(cards.items()))


def _card(number: int, case: Case, show_sentences: bool) -> Mapping[str, Any]:
    called, present = (("present" if value else "absent") for value in OUTCOMES[case.outcome])
    picture = f"Radiograph of case {number}, {case.label}: {case.outcome}"
    sentence = f"{case.label}, own sentence" + (f": “{case.sentence}”" if show_sentences else "")
    under = (sentence if case.sentence else f"{case.label}, label as prompt") if case.has_map else case.label
    return {
        "number": number,
        "outcome": case.outcome,
        "said": f"Probability {case.probability:.3f}, threshold {case.threshold:.3f}: called {called}, is {present}.",
        "picture": _uri("png", case.picture) if case.picture else "",
        "alt": f"{picture}; beside it the map of regions" if case.has_map else picture,
        "under": under,
        "problem": (case.problem or "no picture").capitalize() + ".",
    }


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
