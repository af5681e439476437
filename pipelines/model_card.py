"""The model card of an exported network: README.md as Hugging Face shows it, filled from the run."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from local_mi.evaluation import MACRO
from local_mi.files import write_text

from pipelines.export_description import chosen_on_validation
from pipelines.export_formats import OUTPUT
from pipelines.export_networks import TrainedNetwork

SETTINGS = {
    "pretrain": (
        *("objective", "estimator", "critic", "aggregation", "sentences", "encoding", "pooling", "text_model"),
        *("batch_size", "learning_rate", "text_learning_rate", "weight_decay", "max_epochs"),
        *("rotation_degrees", "translation", "seed"),
    ),
    "train": (
        *("encoder", "pretrained", "label_fraction", "uncertain", "blanks", "class_weighting"),
        *("batch_size", "learning_rate", "weight_decay", "max_epochs", "rotation_degrees", "translation", "seed"),
    ),
}
NAMES_OF_FILES = ("pretrained", "text_model")  # settings that may be paths of the machine
FIGURES = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "sensitivity_at_specificity": "sensitivity at specificity",
    "ece": "calibration error",
    "ece_scaled": "calibration error, with temperature",
}
FEW_DIGITS = 4


def write_model_card(
    path: Path,
    trained: TrainedNetwork,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    differences: Mapping[str, float],
    data_licence: str,
) -> None:
    """Write the card.

    Args:
        path: of the card.
        trained: the network.
        config: `config.json` of the export.
        metrics: `metrics.json` of the same weights; None where they were not evaluated.
        differences: of each format from the trained network.
        data_licence: in the user's words; may be empty.
    """
    card = _template().render(
        config=config,
        output=OUTPUT[trained.kind],
        parameters=sum(parameter.numel() for parameter in trained.network.parameters()),
        settings=_settings(trained),
        figures=FIGURES,
        rows=[] if metrics is None else _rows(metrics, trained.label_names or []),
        evaluated=metrics,
        calibration={} if metrics is None else _calibration(metrics, trained.label_names or []),
        differences=differences,
        data_licence=data_licence.strip() or "not stated",
    )
    write_text(path, card + "\n")


def _template() -> Any:
    """Markdown, so that nothing is escaped as HTML; the filter `cell` keeps a text inside its cell of a table."""
    source = files("pipelines").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": _cell, "code": _code}
    return environment.from_string(source)


def _cell(value: Any) -> str:
    """A text as one cell of a table."""
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())


def _code(arguments: Mapping[str, Any]) -> str:
    """Arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _settings(trained: TrainedNetwork) -> dict[str, str]:
    configuration = trained.record["configuration"]
    known = {name: configuration[name] for name in SETTINGS[trained.stage] if name in configuration}
    return {name: _setting(name, value) for name, value in known.items()}


def _setting(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name in NAMES_OF_FILES:
        return Path(str(value)).name
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rows(metrics: Mapping[str, Any], label_names: Sequence[str]) -> list[dict[str, str]]:
    """A row a label and one of their mean, with the interval beside each figure."""
    found = {(m["label"], m["metric"]): m for m in metrics["metrics"] if m["blanks"] == "masked"}
    rows = []
    for label in (*label_names, MACRO):
        of_label = {name: found.get((label, name)) for name in FIGURES}
        counted = of_label["auroc"] or {}
        counts = {key: "" if label == MACRO else _count(counted.get(key)) for key in ("rows", "positives")}
        name = "mean of the labels" if label == MACRO else label
        rows.append({"label": name} | counts | {name: _figure(metric) for name, metric in of_label.items()})
    return rows


def _calibration(metrics: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Temperature and threshold of every label."""
    temperatures, thresholds = (chosen_on_validation(dict(metrics), name) for name in ("temperature", "threshold"))
    return {name: (_number(temperatures.get(name)), _number(thresholds.get(name))) for name in label_names}


def _figure(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "undefined"
    if metric["low"] is None or metric["high"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.{FEW_DIGITS}g}"


def _count(value: Any) -> str:
    return "" if value is None else str(value)
