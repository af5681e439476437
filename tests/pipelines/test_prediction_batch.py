"""A night batch: a day's radiographs come from a real archive, results go back, and nothing is done twice."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import polars as pl
import pytest
from commands import Run, assert_refused
from made_classifier import write_classifier
from pydicom import dcmread

from pipelines.classifier import Classifier, load_classifier
from pipelines.predict import OnProgress, PredictionOptions
from pipelines.prediction_batch import Archives, Round, predict_in_rounds
from pipelines.prediction_ledger import Wanted
from preprocessing.errors import InputError
from preprocessing.phantoms import DIFFICULTIES, write_phantoms

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra `dicom-output`)")

from orthanc import Orthanc, free_port, running_orthanc

from pipelines.archive import parse_peer, send_files

EVER = "19000101-20991231"
OPTIONS = PredictionOptions(wanted=Wanted(dicom=True), workers=1)


def quietly(step: str) -> AbstractContextManager[OnProgress]:
    return nullcontext(lambda done, total: None)


def once(source: Path, folder: Path, classifier: Classifier, archives: Archives) -> Round:
    (done,) = predict_in_rounds(source, folder, classifier, OPTIONS, archives, None, quietly)
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model") / "classifier")


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return load_classifier(model)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("phantoms") / "out"
    write_phantoms(out, studies=4, size=64, seed=5, difficulty=DIFFICULTIES["easy"])
    return sorted((out / "dicom").rglob("*.dcm"))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, phantoms: list[Path]) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        assert not any(reason for _, reason in send_files(phantoms, parse_peer(server.address), "TESTER"))
        yield server


def test_a_days_radiographs_are_fetched_and_the_results_are_filed_in_their_studies(
    orthanc: Orthanc, phantoms: list[Path], tmp_path: Path, classifier: Classifier
) -> None:
    archives = Archives(fetch_from=orthanc.address, day=EVER, send_to=orthanc.address)
    source, out = tmp_path / "fetched", tmp_path / "out"
    done = once(source, out, classifier, archives)
    assert (done.fetched, done.not_fetched, done.not_sent) == (len(phantoms), {}, {})
    table = pl.read_parquet(out / "predictions.parquet")
    predicted = table.filter(pl.col("reason") == "")
    assert len(predicted) > 0
    reports = [
        orthanc.ask(f"/instances/{found}/simplified-tags")
        for found in orthanc.ask("/tools/find", {"Level": "Instance", "Query": {"Modality": "SR"}})
    ]
    assert sorted(report["StudyInstanceUID"] for report in reports) == sorted(predicted["study_instance_uid"])
    results = list((out / "dicom").glob("*/*.dcm"))
    assert done.sent == len(results)
    assert len(orthanc.instances()) == len(phantoms) + len(results)
    again = once(source, out, classifier, archives)
    assert (again.fetched, again.sent) == (0, 0)
    assert again.summary is not None
    assert again.summary.done == 0
    assert len(orthanc.instances()) == len(phantoms) + len(results)


def test_a_round_goes_on_where_an_archive_is_down_and_the_next_one_makes_it_good(
    orthanc: Orthanc, phantoms: list[Path], tmp_path: Path, classifier: Classifier
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    down = f"127.0.0.1:{free_port()}:NOBODY"
    rounds = predict_in_rounds(source, out, classifier, OPTIONS, Archives(send_to=down), 0.01, quietly)
    empty = next(rounds)
    assert empty.summary is None
    assert empty.lines() == ["no files yet"]
    for number, path in enumerate(phantoms):
        shutil.copy(path, source / f"{number}.dcm")
    second = next(rounds)
    assert second.summary is not None
    assert second.summary.done == len(phantoms)
    assert second.sent == 0
    ((reason, count),) = second.not_sent.items()
    assert (down in reason, count) == (True, 1)
    third = next(rounds)
    assert third.summary is not None
    assert third.summary.done == 0
    rounds.close()
    made_good = once(source, out, classifier, Archives(send_to=orthanc.address))
    assert made_good.sent == len(list((out / "dicom").glob("*/*.dcm")))


def test_a_watch_outlives_an_archive_that_is_down_before_anything_was_fetched(
    tmp_path: Path, classifier: Classifier
) -> None:
    down = Archives(fetch_from=f"127.0.0.1:{free_port()}:NOBODY")
    rounds = predict_in_rounds(tmp_path / "fetched", tmp_path / "out", classifier, OPTIONS, down, 0.01, quietly)
    for done in (next(rounds), next(rounds)):
        assert done.summary is None
        assert len(done.not_fetched) == 1
    rounds.close()


def test_one_round_without_its_archive_is_an_error(tmp_path: Path, classifier: Classifier) -> None:
    archives = Archives(fetch_from=f"127.0.0.1:{free_port()}:NOBODY", day="20260101")
    with pytest.raises(InputError, match="NOBODY"):
        once(tmp_path / "in", tmp_path / "out", classifier, archives)


def test_one_round_whose_results_nobody_takes_is_refused_before_its_work(
    phantoms: list[Path], tmp_path: Path, classifier: Classifier
) -> None:
    down = Archives(send_to=f"127.0.0.1:{free_port()}:NOBODY")
    with pytest.raises(InputError, match="NOBODY"):
        once(phantoms[0].parent, tmp_path / "out", classifier, down)
    assert not (tmp_path / "out").exists()


def test_results_that_changed_are_sent_again(
    orthanc: Orthanc, phantoms: list[Path], tmp_path: Path, classifier: Classifier
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    frontal = [path for path in phantoms if dcmread(path).get("ViewPosition") in ("PA", "AP")]
    shutil.copy(frontal[0], source / "a.dcm")
    archives = Archives(send_to=orthanc.address)
    first = once(source, out, classifier, archives)
    assert first.sent >= 1
    dataset = dcmread(frontal[0])
    dataset.WindowWidth = float(dataset.get("WindowWidth", 1000) or 1000) * 2 if "WindowWidth" in dataset else 3000
    dataset.save_as(source / "a.dcm")
    assert once(source, out, classifier, archives).sent >= 1


def test_the_command_says_what_it_did(phantoms: list[Path], tmp_path: Path, model: Path, run: Run) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, path in enumerate(phantoms):
        shutil.copy(path, source / f"{number}.dcm")
    done = run("predict", source, tmp_path / "out", "--model", model, "--workers", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{len(phantoms)} files, " in done.stderr
    assert "predictions.csv" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--date", "20260101"], ["--from"]),
        (["--from", "nowhere"], ["HOST:PORT:AET"]),
        (["--send", "a:b:c"], ["port"]),
        (["--from", "a:104:B", "--date", "yesterday"], ["YYYYMMDD"]),
        (["--captures", "perhaps"], ["captures"]),
        (["--model", "nowhere"], ["nowhere", "export"]),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_refused_before_anything_is_written(
    phantoms: list[Path], tmp_path: Path, model: Path, run: Run, words: list[str], said: list[str]
) -> None:
    model_words = [] if "--model" in words else ["--model", model]
    done = run("predict", phantoms[0].parent, tmp_path / "out", *model_words, *words)
    assert_refused(done, *said)
    assert not (tmp_path / "out").exists()
