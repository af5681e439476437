"""A study's data: the store's datalist, its test labels the truth where that is known, and one of shuffled reports."""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_mi.datalist import SPLITS, datalist_hash, read_datalist
from local_mi.files import write_json
from local_mi.labels import KNOWN, SEVERITY, SEVERITY_LABELS, labels_by_name

from pipelines.study_cells import OWN, SHUFFLED

SHUFFLE_SEED = 0


def write_study_data(store: Path, folder: Path, truth: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Write the study's datalists, `data/` and `data_shuffled/`, whose image paths lead to the store.

    Args:
        store: the data.
        folder: of the study.
        truth: by study, what the pictures of the test split show; None where reports and tables are all there is.

    Raises:
        ConfigurationError: the store has no datalist.
    """
    content = read_datalist(str(store / "datalist.json"))
    own = content | {split: _located(content.get(split) or [], store, folder / OWN) for split in SPLITS}
    if truth is not None:
        own["test"] = [_with_truth(item, content["label_names"], truth) for item in own["test"]]
    shuffled = own | {split: _shuffled(own[split]) for split in SPLITS}
    for name, datalist in ((OWN, own), (SHUFFLED, shuffled)):
        path = folder / name / "datalist.json"
        if not _is_written(path, datalist):
            write_json(path, datalist)


def _is_written(path: Path, content: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == content)
    except (OSError, ValueError):
        return False


def _located(items: list[dict[str, Any]], store: Path, folder: Path) -> list[dict[str, Any]]:
    way = os.path.relpath(store.resolve(), folder.resolve())
    return [item | {"image": f"{way}/{item['image']}"} for item in items]


def _with_truth(item: dict[str, Any], label_names: list[str], truth: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    known = truth[item["study"]]
    return item | {"label": [known.get(name) for name in label_names], SEVERITY: known.get(SEVERITY)}


def _shuffled(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each study's report given to another study of the split; images of one study keep sharing theirs."""
    reports = {item["study"]: item.get("sentences", []) for item in items}
    studies = sorted(study for study, sentences in reports.items() if sentences)
    random.Random(SHUFFLE_SEED).shuffle(studies)
    given = {study: reports[other] for study, other in zip(studies, studies[1:] + studies[:1], strict=True)}
    return [item | {"sentences": given.get(item["study"], [])} for item in items]


def learnable_labels(folder: Path) -> tuple[str, ...]:
    """Labels that training studies have with both values: those of the datalist, then the grades of an edema."""
    content = read_datalist(str(folder / OWN / "datalist.json"))
    names = [*content.get("label_names", []), *SEVERITY_LABELS]
    rows = labels_by_name(content.get("training") or [], content.get("label_names", []), names)
    return tuple(name for name, values in zip(names, zip(*rows, strict=True), strict=True) if {*KNOWN} <= {*values})


def straddling_patients(folder: Path) -> int:
    """Number of patients in more than one split, counted from the datalist itself."""
    content = read_datalist(str(folder / OWN / "datalist.json"))
    splits: dict[str, set[str]] = {}
    for split in SPLITS:
        for item in content.get(split) or []:
            splits.setdefault(item["patient"], set()).add(split)
    return sum(len(found) > 1 for found in splits.values())


def data_facts(folder: Path) -> dict[str, Any]:
    """Counts of the study's data: images, studies, patients and studies with a report, by split, and its hash."""
    path = folder / OWN / "datalist.json"
    content = read_datalist(str(path))
    counts = {
        split: {
            "images": len(items),
            "studies": len({item["study"] for item in items}),
            "patients": len({item["patient"] for item in items}),
            "studies_with_report": len({item["study"] for item in items if item.get("sentences")}),
        }
        for split in SPLITS
        for items in [content.get(split) or []]
    }
    return {"datalist_sha256": datalist_hash(str(path)), "preprocessing": content.get("preprocessing", {}), **counts}
