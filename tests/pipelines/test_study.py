"""A study in its smallest form: every kind of cell, real training, and what becomes of cells that fail or are done."""

import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from local_mi.errors import ConfigurationError
from made_once import made_once

from pipelines.study import Arm, run_cells_of_study, scale_settings
from pipelines.study_cells import Classifier, PixelProbe, Pretraining, Study, run_cell
from pipelines.study_data import straddling_patients, write_study_data
from pipelines.study_report import StudyReport, write_report
from pipelines.study_results import MEAN, Comparison, compared_arms, study_results, with_holm
from preprocessing.ingest import OnProgress


def quietly(step: str) -> AbstractContextManager[OnProgress]:
    return nullcontext(lambda done, total: None)


def tiny() -> dict[str, Any]:
    settings = scale_settings("small")
    settings |= {
        "phantoms": {"studies": 90, "size": 64, "difficulty": settings["phantoms"]["difficulty"]},
        "store": {"size": 32, "split_fractions": [0.5, 0.25, 0.25]},
        "objectives": ["global", "local"],
        "estimators": ["infonce"],
        "seeds": [0],
        "label_fractions": [1.0],
        "tuning_fraction": 1.0,
        "resamples": 50,
    }
    for stage in ("pretrain", "finetune", "frozen"):
        settings[stage]["candidates"] = settings[stage]["candidates"][:1]
        settings[stage]["epochs"] = {}
        settings[stage]["settings"] |= {"image_size": 32, "max_epochs": 1, "val_interval": 1}
    return settings


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyReport]:
    def make(folder: Path) -> tuple[Path, StudyReport]:
        outcome = run_cells_of_study(folder / "study", None, tiny(), 1, quietly)
        return folder / "study", write_report(outcome, "tiny")

    return made_once(tmp_path_factory, "study", make)


def test_every_cell_of_the_table_has_its_figure(study: tuple[Path, StudyReport]) -> None:
    folder, report = study
    assert report.results.failed == {}
    means = {(f.arm, f.encoder, f.fraction): f for f in report.results.figures if f.label == MEAN}
    arms = ("image-only", "global InfoNCE", "local InfoNCE")
    assert set(means) == {(arm, encoder, 1.0) for arm in arms for encoder in ("frozen", "finetune")} | {
        ("pixels", "frozen", 1.0)
    }
    for figure in means.values():
        assert figure.value is not None
        assert figure.low is not None
        assert figure.high is not None
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
    written = json.loads((folder / "study.json").read_text())
    assert written["data"]["test"]["studies"] > 0
    assert set(written["validation_values"]) >= {"pretrain/local-infonce-candidate0-seed0"}
    assert (folder / "study.html").read_text(encoding="utf-8").count("data:image/svg+xml") >= 1


def test_its_checks_hold(study: tuple[Path, StudyReport]) -> None:
    checks = {check.name: check for check in study[1].results.checks}
    assert len(checks) == 3
    assert checks["patients in more than one split"].holds
    assert checks["the same seed again: pretraining, then a frozen classifier"].found == "the same"


def test_a_study_goes_on_with_what_is_missing_and_does_nothing_twice(study: tuple[Path, StudyReport]) -> None:
    folder, report = study
    cells = {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("cell.json")}
    lost = folder / PixelProbe(1.0, 0).name
    shutil.rmtree(lost)
    again = study_results(run_cells_of_study(folder, None, tiny(), 1, quietly))
    now = {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("cell.json")}
    assert now.keys() == cells.keys()
    assert [str(path) for path in cells if now[path] != cells[path]] == [f"{PixelProbe(1.0, 0).name}/cell.json"]
    assert again.figures == report.results.figures


def test_pixels_are_probed_on_unlabelled_studies_too(study: tuple[Path, StudyReport], tmp_path: Path) -> None:
    """Else the rows of its predictions would not be those of the classifiers, and nothing could be compared."""
    folder, _ = study
    for name in ("data", "store"):
        shutil.copytree(folder / name, tmp_path / name)
    path = tmp_path / "data" / "datalist.json"
    content = json.loads(path.read_text())
    content["test"][0]["label"] = []
    path.write_text(json.dumps(content))
    cell = PixelProbe(1.0, 0)
    assert "failed" not in run_cell(Study(tmp_path, tiny(), ("No Finding", "Edema")), cell)
    frontal = [item["study"] for item in content["test"] if item["view"] != "LATERAL"]
    lines = (tmp_path / cell.name / "predictions_test.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == frontal


def test_a_cell_that_fails_says_why_and_costs_no_other(study: tuple[Path, StudyReport], tmp_path: Path) -> None:
    folder, _ = study
    shared = Study(folder, tiny(), ("No Finding",))
    orphan = Classifier(Pretraining("local", "infonce", 0, 99), "frozen", 1.0, 0, 99)
    assert run_cell(shared, orphan)["failed"].startswith("there is no encoder of pretrain/local-infonce")
    assert not (folder / orphan.name).exists()


def test_shuffled_reports_are_the_same_reports_of_other_studies(study: tuple[Path, StudyReport]) -> None:
    folder, _ = study
    own, shuffled = (json.loads((folder / name / "datalist.json").read_text()) for name in ("data", "data_shuffled"))
    for split in ("training", "validation", "test"):
        pairs = list(zip(own[split], shuffled[split], strict=True))
        assert all(a["study"] == b["study"] and a["label"] == b["label"] for a, b in pairs)
        of_study = {a["study"]: (a["sentences"], b["sentences"]) for a, b in pairs}
        assert sorted(a for a, _ in of_study.values()) == sorted(b for _, b in of_study.values())
        assert len({a["study"] for a, b in pairs if a["sentences"] != b["sentences"]}) > 0.9 * len(of_study)


def test_test_labels_of_phantoms_are_the_truth_and_training_labels_are_not(study: tuple[Path, StudyReport]) -> None:
    folder, _ = study
    own = json.loads((folder / "data" / "datalist.json").read_text())
    stored = json.loads((folder / "store" / "datalist.json").read_text())
    assert [item["label"] for item in own["training"]] == [item["label"] for item in stored["training"]]
    assert all(value in (0, 1, -1) for item in own["test"] for value in item["label"]), "the truth has no blanks"
    assert any(value is None for item in stored["test"] for value in item["label"])


def test_patients_in_two_splits_are_counted(tmp_path: Path) -> None:
    items = [{"patient": patient, "study": patient, "image": "a.npy"} for patient in "abc"]
    store = tmp_path / "store"
    store.mkdir()
    content = {"label_names": [], "training": items, "validation": items[:1], "test": items[1:2]}
    (store / "datalist.json").write_text(json.dumps(content))
    write_study_data(store, tmp_path / "study", None)
    assert straddling_patients(tmp_path / "study") == 2


def test_arms_are_compared_with_the_same_estimator_and_with_image_only() -> None:
    bare, one, two, other = Arm(None, None), Arm("global", "dv"), Arm("local", "dv"), Arm("local", "infonce")
    assert compared_arms([bare, one, two, other]) == [(two, one), (one, bare), (two, bare), (other, bare)]


def test_p_values_are_corrected_as_holm_has_it() -> None:
    """Holm 1979: p 0.01, 0.04, 0.03 of three become 0.03, 0.06, 0.06."""
    rows = [
        Comparison("a", "b", "frozen", 1.0, label, 0.1, 0.0, 0.2, p, None, None)
        for label, p in ((MEAN, 0.01), ("Edema", 0.001), (MEAN, 0.04), (MEAN, 0.03))
    ]
    corrected = [row.p_holm for row in with_holm(rows)]
    assert corrected == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="choose one of small, full"):
        scale_settings("huge")
