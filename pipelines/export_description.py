"""`config.json` of exported weights: how the network is made, fed and calibrated, and where it is from."""

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from local_mi.errors import ConfigurationError
from local_mi.files import write_json

from pipelines.bundle import CHECKPOINTS
from pipelines.export_networks import TrainedNetwork
from pipelines.export_timm import timm_architecture, timm_fields

CONFIG, CARD = "config.json", "README.md"
WEIGHTS = "model.safetensors"
NOT_EVALUATED = "not evaluated: run `cxr-local-mi evaluate STORE RUN` first, so that temperatures and thresholds travel"


def describe(trained: TrainedNetwork, run: Path, metrics: dict[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """`config.json` but for the hashes of files, and what people are to be told beside it.

    Args:
        trained: the network.
        run: folder of its run.
        metrics: of `evaluated_metrics`.
    """
    record = trained.record
    description = {
        "kind": trained.kind,
        "network": trained.made_of,
        "image_size": trained.image_size,
        "views": trained.views,
        "value_range": [0, 1],
        "preprocessing": record.get("prepared_as") or record.get("preprocessing") or {},
        "label_names": trained.label_names,
        "calibration": None if metrics is None else _calibration(metrics),
        "trained_weights_sha256": record["sha256"],
        "provenance": _provenance(trained, run),
    }
    architecture, reason = timm_architecture(trained.network)
    if not architecture:
        return description, [f"the layout of the {trained.kind} is not timm's and torchvision's: {reason}"]
    outputs = len(trained.label_names or ())
    return description | timm_fields(architecture, trained.image_size, outputs), []


def evaluated_metrics(trained: TrainedNetwork, run: Path) -> dict[str, Any] | None:
    """What `evaluate` wrote of these very weights, or None."""
    found = _read(run / "metrics.json") if trained.kind == "classifier" else {}
    if found.get("weights_sha256") != trained.record["sha256"]:
        return None
    if not _are_metrics(found.get("metrics")):
        raise ConfigurationError(f"{run / 'metrics.json'} is damaged; run `cxr-local-mi evaluate STORE RUN` again")
    return found


def _are_metrics(found: Any) -> bool:
    """Whether a list has what the card and `config.json` tell of each metric."""
    try:
        return all(
            isinstance(m["label"], str)
            and {m["metric"], m["blanks"]} <= {str(m["metric"]), str(m["blanks"])}
            and all(value is None or math.isfinite(value) for value in (m["value"], m["low"], m["high"]))
            and (m["metric"] != "threshold" or m["value"] is None or 0 <= m["value"] <= 1)
            and (m["metric"] != "temperature" or m["value"] is None or m["value"] > 0)
            for m in found
        )
    except (TypeError, KeyError):
        return False


def write_config(folder: Path, description: dict[str, Any], hashes: dict[str, str]) -> None:
    """Write `config.json` of a folder, with SHA-256 of its files."""
    others = {name: digest for name, digest in sorted(hashes.items()) if name not in (WEIGHTS, CONFIG)}
    write_json(folder / CONFIG, description | {"weights_sha256": hashes[WEIGHTS], "files": others})


def _calibration(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By label; thresholds are of probabilities before the temperature."""
    return {name: chosen_on_validation(metrics, name) for name in ("temperature", "threshold")}


def chosen_on_validation(metrics: dict[str, Any], name: str) -> dict[str, float]:
    """Temperatures or thresholds by label, of those that have one; blank labels left out."""
    chosen = [m for m in metrics["metrics"] if (m["metric"], m["blanks"]) == (name, "masked")]
    return {m["label"]: float(m["value"]) for m in chosen if m["value"] is not None}


def _provenance(trained: TrainedNetwork, run: Path) -> dict[str, Any]:
    record = trained.record
    started = _read(run / f"{trained.stage}_run.json")
    is_same_data = started.get("datalist_sha256") == record.get("datalist_sha256")
    known = {key: record.get(key) for key in ("datalist_sha256", "counts", "metric", "value", "epoch", "encoder")}
    return {
        "workflow": trained.stage,
        "checkpoint": CHECKPOINTS[trained.stage],
        "seed": record["configuration"].get("seed"),
        "versions": (started.get("versions") if is_same_data else None) or {},
        "cxr_local_mi": version("cxr-local-mi"),
        **known,
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none to be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
