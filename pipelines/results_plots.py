"""Figures of a results page: scores and results in, SVG text out; the same data gives the same bytes.

Every label has a panel of its own, so that no line has to be told from thirteen others by its colour.
"""

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from local_mi.calibration import reliability_curve
from local_mi.scores import Scores, blanks_as_negative
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]
"""Places on the x and on the y axis, (n,) each."""

LEFT_OUT, AS_ABSENT = "unmentioned left out", "unmentioned counted as absent"
"""What becomes of a label that a report does not mention, in words."""

TRAINING = {"frozen": "Frozen encoder", "finetune": "Fine-tuned encoder"}

COLUMNS = 4  # panels side by side
PANEL = 2.4  # inches, the side of one
BAR = 0.022  # width in units of probability
CURVE_POINTS = 400  # more are not seen in a panel, and make the page heavy

# Colours of Okabe and Ito, which people with any of the usual kinds of colour blindness tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: Any = ("-", "--", "-.", ":")
GREY = "#666666"
CHANCE: Any = {"linewidth": 0.9, "linestyle": ":"}

STYLE: Any = {
    "svg.hashsalt": "cxr-local-mi",  # ids in the file are random without it
    "svg.fonttype": "none",  # names of labels in scripts that Matplotlib's own font lacks
    "text.parse_math": False,  # a name may hold a dollar
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "lines.linewidth": 1.6,
}


class EfficiencyPoint(NamedTuple):
    """How good a classifier is after training on a share of the labels.

    Args:
        arm: what is compared, for instance `pretrained`.
        training: `frozen` or `finetune`: whether the encoder was trained on.
        fraction: share of the training patients, in (0, 1].
        value: the metric.
        low, high: its interval.
    """

    arm: str
    training: str
    fraction: float
    value: float
    low: float
    high: float


class _Kind(NamedTuple):
    """What is drawn in a panel of curves; `curve` takes probabilities and truth, `draw_chance` truth and a colour."""

    curve: Callable[[Floats, Floats], Curve]
    x: str
    y: str
    draw_chance: Callable[[Axes, Floats, str], None]
    drawstyle: str


def roc_plot(scores: Scores) -> str:
    """Receiver operating characteristic of every label under both conventions for labels that are not mentioned.

    Args:
        scores: a row a study.

    Returns:
        SVG; empty where no label has both classes.
    """
    return _curves_plot(scores, _Kind(_roc, "1 - specificity", "sensitivity", _diagonal, "default"))


def precision_recall_plot(scores: Scores) -> str:
    """Precision over recall of every label under both conventions; chance is the prevalence.

    Args:
        scores: a row a study.

    Returns:
        SVG; empty where no label has both classes.
    """
    return _curves_plot(scores, _Kind(_precision_recall, "recall", "precision", _prevalence, "steps-pre"))


def undrawn_labels(scores: Scores) -> list[str]:
    """The labels that have no curve: those without a present or without an absent row."""
    return [name for k, name in enumerate(scores.label_names) if not _has_both(_known(scores, k)[1])]


def _known(scores: Scores, label: int) -> tuple[Floats, Floats]:
    """Probabilities and truth, 0 or 1, of the rows that count for a label, (M,) each."""
    truth = scores.labels[:, label]
    counts = (truth == 0) | (truth == 1)
    return scores.probabilities[counts, label], truth[counts]


def _has_both(truth: Floats) -> bool:
    return len(np.unique(truth)) == 2


def _roc(probabilities: Floats, truth: Floats) -> Curve:
    false, true, _ = roc_curve(truth, probabilities)
    return _thinned(false, true)


def _precision_recall(probabilities: Floats, truth: Floats) -> Curve:
    precision, recall, _ = precision_recall_curve(truth, probabilities, drop_intermediate=True)
    return _thinned(recall[::-1], precision[::-1])


def _thinned(x: Floats, y: Floats) -> Curve:
    """At most `CURVE_POINTS` points of a curve, at about equal distances along it; both ends stay."""
    if len(x) <= CURVE_POINTS:
        return x, y
    way = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS)))
    kept = np.union1d(kept, [0, len(x) - 1])
    return x[kept], y[kept]


def _diagonal(axes: Axes, truth: Floats, colour: str) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, **CHANCE)


def _prevalence(axes: Axes, truth: Floats, colour: str) -> None:
    axes.axhline(float(truth.mean()), color=colour, **CHANCE)


@matplotlib.rc_context(STYLE)
def _curves_plot(scores: Scores, kind: _Kind) -> str:
    conventions = (scores, blanks_as_negative(scores))
    drawn = [k for k in range(len(scores.label_names)) if any(_has_both(_known(s, k)[1]) for s in conventions)]
    if not drawn:
        return ""
    figure, panels = _panels(len(drawn), [1])
    for (axes,), k in zip(panels, drawn, strict=True):
        _unit_square(axes, scores.label_names[k], kind.x, kind.y)
        rows = 0
        for one, colour, dashes in zip(conventions, COLOURS, DASHES, strict=False):
            probabilities, truth = _known(one, k)
            if len(truth) > rows and _has_both(truth):  # one line where nothing is unmentioned
                x, y = kind.curve(probabilities, truth)
                axes.plot(x, y, color=colour, linestyle=dashes, drawstyle=kind.drawstyle)
                kind.draw_chance(axes, truth, colour)
                rows = len(truth)
    lines = [
        Line2D([], [], color=colour, linestyle=dashes) for colour, dashes in zip(COLOURS, DASHES[:2], strict=False)
    ]
    _legend(figure, [*lines, Line2D([], [], color=GREY, **CHANCE)], [LEFT_OUT, AS_ABSENT, "chance"])
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def calibration_plot(scores: Scores, scaled: Scores | None) -> str:
    """Reliability of every label, what was observed over what was said, and how many studies stand behind each point.

    Args:
        scores: a row a study; unmentioned labels are left out.
        scaled: the same after temperature scaling, where that was done.

    Returns:
        SVG; empty where no label has both classes.
    """
    drawn = [k for k in range(len(scores.label_names)) if _has_both(_known(scores, k)[1])]
    if not drawn:
        return ""
    stages = {"as predicted": scores} if scaled is None else {"as predicted": scores, "temperature scaled": scaled}
    figure, panels = _panels(len(drawn), [1, 0.35])
    for (axes, counts), k in zip(panels, drawn, strict=True):
        _unit_square(axes, scores.label_names[k], "", "observed share")
        _diagonal(axes, scores.labels[:, k], GREY)
        for number, stage in enumerate(stages.values()):
            curve = reliability_curve(stage.probabilities[:, k], stage.labels[:, k])
            axes.plot(curve.probability, curve.observed, **_line_style(number))
            aside = BAR * (number - (len(stages) - 1) / 2)
            counts.bar(curve.probability + aside, curve.count, width=BAR, color=COLOURS[number], linewidth=0)
        _count_axis(counts)
    lines = [Line2D([], [], **_line_style(number)) for number in range(len(stages))]
    _legend(figure, [*lines, Line2D([], [], color=GREY, **CHANCE)], [*stages, "perfect"])
    return _svg(figure)


def _count_axis(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), xlabel="probability", ylabel="studies", yscale="log")
    axes.set_ylim(0.7, max(20.0, 2 * axes.get_ylim()[1]))
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_locator(NullLocator())


@matplotlib.rc_context(STYLE)
def label_efficiency_plot(points: Sequence[EfficiencyPoint], quantity: str) -> str:
    """A metric over the share of labels that was trained on, a line an arm, a panel a way of training.

    Args:
        points: those whose value is no number are not drawn.
        quantity: what `value` is, for instance `mean AUROC`.

    Returns:
        SVG; empty where no point can be drawn.
    """
    drawn = [point for point in points if math.isfinite(point.value)]
    if not drawn:
        return ""
    arms = list(dict.fromkeys(point.arm for point in points))
    ways = list(dict.fromkeys(point.training for point in drawn))
    fractions = [point.fraction for point in drawn]
    apart = (max(fractions) / min(fractions)) ** 0.012  # intervals of two arms would lie on each other
    figure = Figure(figsize=(4.6 * len(ways) + 0.4, 3.9), layout="constrained")
    for axes, way in zip(figure.subplots(1, len(ways), sharey=True, squeeze=False)[0], ways, strict=True):
        for k, arm in enumerate(arms):
            aside = apart ** (k - (len(arms) - 1) / 2)
            _draw_arm(axes, [p for p in drawn if (p.arm, p.training) == (arm, way)], k, aside)
        _share_axis(axes, sorted(set(fractions)))
        axes.set(title=TRAINING.get(way, way), xlabel="share of the training patients")
    figure.axes[0].set_ylabel(quantity)
    _legend(figure, [Line2D([], [], **_line_style(k)) for k in range(len(arms))], arms)
    return _svg(figure)


def undrawn_points(points: Sequence[EfficiencyPoint]) -> list[str]:
    """The points without a value, in words."""
    undefined = [point for point in points if not math.isfinite(point.value)]
    return [f"{p.arm}, {TRAINING.get(p.training, p.training).lower()}, {percent(p.fraction)}" for p in undefined]


def percent(fraction: float) -> str:
    """A share as people write it: 0.05 is 5 %."""
    return f"{100 * fraction:.3g} %"


def _draw_arm(axes: Axes, points: Sequence[EfficiencyPoint], arm: int, aside: float) -> None:
    points = sorted(points, key=lambda point: point.fraction)
    x = np.array([point.fraction for point in points]) * aside
    style = _line_style(arm)
    axes.plot(x, [point.value for point in points], **style)
    axes.vlines(x, [p.low for p in points], [p.high for p in points], color=style["color"], linewidth=1.2)


def _line_style(number: int) -> Any:
    """Told apart by colour, by marker and by dashes."""
    looks = (COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
    return dict(zip(("color", "marker", "linestyle"), looks, strict=True), markersize=4)


def _share_axis(axes: Axes, fractions: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(fractions[0] / 1.3, fractions[-1] * 1.3)
    axes.set_xticks(fractions, [percent(fraction) for fraction in fractions])
    axes.set_xticks([], minor=True)


def _panels(number: int, heights: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    """Panels in lines of `COLUMNS`; a panel is a column of axes with these shares of its height."""
    columns = min(number, COLUMNS)
    lines = -(-number // columns)
    figure = Figure(figsize=(PANEL * columns + 0.2, PANEL * sum(heights) * 1.1 * lines + 0.5), layout="constrained")
    grid = figure.add_gridspec(lines, columns)
    panels = []
    for place in range(number):
        inner = grid[divmod(place, columns)].subgridspec(len(heights), 1, height_ratios=heights)
        panels.append([figure.add_subplot(inner[k]) for k in range(len(heights))])
    return figure, panels


def _unit_square(axes: Axes, name: str, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x, ylabel=y)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_title("\n".join(textwrap.wrap(textwrap.shorten(name, 60, placeholder=" ..."), 26)))


def _legend(figure: Figure, lines: Sequence[Line2D], names: Sequence[str]) -> None:
    figure.legend(lines, names, loc="outside upper left", ncols=4, frameon=False, handlelength=3)


def _svg(figure: Figure) -> str:
    """SVG without date and version; a font of Matplotlib's own is not needed to show it."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's browser has it
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()
