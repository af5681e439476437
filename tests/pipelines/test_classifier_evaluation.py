"""A classifier's run is evaluated as a whole: predictions, figures that others can recompute, and a page."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from local_mi.errors import ConfigurationError
from sklearn.metrics import roc_auc_score

from pipelines.demo import DemoResult
from pipelines.evaluation import evaluate_classifier


def first_labels(store: Path) -> dict[str, list[float]]:
    items = json.loads((store / "datalist.json").read_text())["test"]
    return {item["study"]: [np.nan if v is None else v for v in item["label"]] for item in items}


def test_the_figures_are_those_of_the_predictions_beside_them(demo: DemoResult) -> None:
    run, store = demo.folder / "classifier_local", demo.folder / "store"
    written = json.loads((run / "metrics.json").read_text())
    assert written["summary"]["macro_auroc"] == demo.auroc_local
    truth = first_labels(store)
    with (run / "predictions_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_study: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_study.setdefault(row["study"], []).append(row)
    names = json.loads((store / "datalist.json").read_text())["label_names"]
    figures = {m["label"]: m for m in written["metrics"] if m["metric"] == "auroc" and m["blanks"] == "masked"}
    defined = []
    for k, name in enumerate(names):
        pairs = [
            (truth[study][k], np.mean([float(row[name]) for row in of_study])) for study, of_study in by_study.items()
        ]
        known = [(label, score) for label, score in pairs if label in (0, 1)]
        if len({label for label, _ in known}) < 2:
            assert figures[name]["value"] is None
            assert figures[name]["reason"]
            continue
        defined.append(roc_auc_score(*zip(*known, strict=True)))
        assert figures[name]["value"] == pytest.approx(defined[-1])
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    assert figures["macro"]["value"] == pytest.approx(np.mean(defined))
    assert (run / "metrics.csv").read_text().startswith("kind,")


def test_the_page_holds_every_label_and_no_study_and_no_sentence(demo: DemoResult) -> None:
    page = (demo.folder / "classifier_local" / "evaluation.html").read_text(encoding="utf-8")
    content = json.loads((demo.folder / "store" / "datalist.json").read_text())
    assert all(name in page for name in content["label_names"])
    assert "data:image/png" in page
    for item in content["test"]:
        assert item["study"] not in page
        assert item["patient"] not in page
        assert not any(sentence in page for sentence in item["sentences"])


def test_a_run_against_itself_differs_by_nothing(demo: DemoResult, tmp_path: Path) -> None:
    run = demo.folder / "classifier_random"
    evaluated = evaluate_classifier(demo.folder / "store", run, against=run, resamples=100, overrides={})
    assert {(d.difference, d.low, d.high) for d in evaluated.differences if d.difference is not None} == {(0, 0, 0)}
    assert {d.p for d in evaluated.differences if d.p is not None} == {1.0}


def test_runs_with_other_labels_are_not_compared(demo: DemoResult, tmp_path: Path) -> None:
    other = tmp_path / "run"
    (other / "models").mkdir(parents=True)
    for name in ("model.pt", "model.json"):
        (other / "models" / name).write_bytes((demo.folder / "classifier_random" / "models" / name).read_bytes())
    record = json.loads((other / "models" / "model.json").read_text())
    record["configuration"]["label_names"] = ["Edema"]
    (other / "models" / "model.json").write_text(json.dumps(record))
    with pytest.raises(ConfigurationError, match="has other labels than"):
        evaluate_classifier(demo.folder / "store", demo.folder / "classifier_local", against=other, overrides={})
