"""Synthetic studies as a folder: the same for the same seed, true to their truth, refused where something else lies."""

import csv
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from preprocessing.errors import InputError
from preprocessing.phantoms import DIFFICULTIES, LABELS, Difficulty, PhantomSummary, plan_study, write_phantoms

STUDIES, SIZE, SEED = 48, 96, 5
MEDIUM = DIFFICULTIES["medium"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomSummary]:
    out = tmp_path_factory.mktemp("phantoms") / "out"
    return out, write_phantoms(out, studies=STUDIES, size=SIZE, seed=SEED, difficulty=MEDIUM)


@pytest.fixture(scope="module")
def out(written: tuple[Path, PhantomSummary]) -> Path:
    return written[0]


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    # In an interpreter of its own, since spawned workers import the main module, here pytest.
    script = (
        "from pathlib import Path; import sys; from preprocessing.phantoms import *\n"
        "if __name__ == '__main__': write_phantoms(Path(sys.argv[1]), studies=31, size=64, seed=2,"
        " difficulty=DIFFICULTIES['hard'], workers=2)"
    )
    (tmp_path / "make.py").write_text(script)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, tmp_path / "make.py", tmp_path / "two"], check=True, cwd=root, env=environment)
    write_phantoms(tmp_path / "one", studies=31, size=64, seed=2, difficulty=DIFFICULTIES["hard"])
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_the_first_studies_do_not_depend_on_how_many_there_are(out: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "few", studies=3, size=SIZE, seed=SEED, difficulty=MEDIUM)
    few, many = contents(tmp_path / "few"), contents(out)
    files = [name for name in few if name.endswith((".dcm", ".txt"))]
    assert len(files) >= 6
    assert all(few[name] == many[name] for name in files)


def test_another_seed_gives_other_studies(out: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "other", studies=2, size=SIZE, seed=SEED + 1, difficulty=MEDIUM)
    assert not {name for name in contents(tmp_path / "other") if name.endswith(".dcm")} & set(contents(out))
    one, other = (plan_study(seed, 0, SIZE, MEDIUM) for seed in (SEED, SEED + 1))
    for part in ("body", "pose", "views", "findings", "identifiers"):
        assert getattr(one, part) != getattr(other, part), part


def test_studies_differ_in_what_they_show(out: Path) -> None:
    shown = {tuple(row[label] for label in LABELS) for row in rows(out / "truth/labels.csv")}
    assert len(shown) > STUDIES / 4


def test_a_second_run_repairs_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    arguments = {"studies": 3, "size": 64, "seed": 1, "difficulty": MEDIUM}
    write_phantoms(tmp_path / "out", **arguments)
    before = contents(tmp_path / "out")
    next((tmp_path / "out").rglob("*.dcm")).unlink()
    (tmp_path / "out" / "labels.csv").write_text("")
    write_phantoms(tmp_path / "out", **arguments)
    assert contents(tmp_path / "out") == before


def test_memory_does_not_grow_with_the_number_of_studies(tmp_path: Path) -> None:
    held: dict[int, int] = {}

    def weigh(done: int, _: int | None) -> None:
        if done in (20, 40):
            gc.collect()  # headers refer to each other and wait for it
            held[done] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        write_phantoms(tmp_path, studies=40, size=64, seed=1, difficulty=MEDIUM, on_progress=weigh)
    finally:
        tracemalloc.stop()
    picture = 64 * 64 * 4
    assert held[40] - held[20] < 5 * picture  # of the twenty or more drawn in between, none is kept


def test_progress_is_told_study_by_study(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    write_phantoms(
        tmp_path / "out",
        studies=3,
        size=64,
        seed=1,
        difficulty=MEDIUM,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_half_written_stays_behind(out: Path) -> None:
    assert not list(out.rglob("*.partial"))


@pytest.mark.parametrize("held", ["a file", "another configuration", "something else", "a broken record"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, held: str) -> None:
    target = tmp_path / "out"
    if held == "a file":
        target.write_text("mine")
    elif held == "another configuration":
        write_phantoms(target, studies=1, size=64, seed=1, difficulty=DIFFICULTIES["easy"])
    else:
        target.mkdir()
        (target / ("phantoms.json" if held == "a broken record" else "notes.txt")).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="out"):
        write_phantoms(target, studies=1, size=64, seed=1, difficulty=MEDIUM)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("wrong", [{"studies": 0}, {"size": 32}, {"seed": -1}, {"workers": 0}])
def test_numbers_out_of_range_are_refused_by_name(tmp_path: Path, wrong: dict[str, int]) -> None:
    arguments = {"studies": 1, "size": 64, "seed": 1, "workers": 1} | wrong
    with pytest.raises(InputError, match=next(iter(wrong))):
        write_phantoms(tmp_path / "out", difficulty=MEDIUM, **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"contrast": -0.1}, {"label_noise": 0.6}, {"overlap": 1.1}])
def test_a_difficulty_out_of_range_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(MEDIUM, **wrong)


def test_counts_are_those_of_the_files(written: tuple[Path, PhantomSummary]) -> None:
    out, summary = written
    record = json.loads((out / "phantoms.json").read_text())
    assert record["complete"]
    assert record["configuration"]["seed"] == SEED
    assert Difficulty(**record["configuration"]["difficulty"]) == MEDIUM
    assert record["counts"]["images"] == summary.images == len(list(out.rglob("*.dcm")))
    assert record["counts"]["patients"] == len(list((out / "dicom").iterdir())) < summary.studies == STUDIES
    assert len(list((out / "reports").iterdir())) == STUDIES
    truth = rows(out / "truth/labels.csv")
    assert summary.positives == {label: sum(row[label] == "1" for row in truth) for label in LABELS}


def test_every_study_has_a_frontal_and_some_have_a_lateral(out: Path) -> None:
    studies = rows(out / "truth/studies.csv")
    assert {row["view"] for row in studies} == {"PA", "AP"}
    assert 0 < sum(row["lateral"] != "" for row in studies) < len(studies)
    for row in studies:
        folder = out / "dicom" / row["patient"] / row["study"]
        assert {path.stem for path in folder.iterdir()} == {row["image"], row["lateral"]} - {""}


def test_reports_are_named_by_study_or_by_accession_number(out: Path) -> None:
    studies = rows(out / "truth/studies.csv")
    named = [row["report"].removesuffix(".txt") for row in studies]
    assert all(name in (row["study"], row["accession"]) for name, row in zip(named, studies, strict=True))
    assert 0 < sum(name == row["accession"] for name, row in zip(named, studies, strict=True)) < len(studies) / 2


def test_boxes_lie_in_their_picture_and_only_positive_or_doubtful_sentences_have_one(out: Path) -> None:
    sizes = {}
    for path in out.rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        sizes[header.SOPInstanceUID] = header.Rows, header.Columns
    boxes = 0
    for line in (out / "truth/sentences.jsonl").read_text().splitlines():
        sentence = json.loads(line)
        if sentence["box"] is None:
            continue
        row0, column0, row1, column1 = sentence["box"]
        assert 0 <= row0 < row1 <= sizes[sentence["image"]][0]
        assert 0 <= column0 < column1 <= sizes[sentence["image"]][1]
        assert sentence["status"] in ("positive", "uncertain")
        boxes += 1
    assert boxes > STUDIES / 2


def test_true_sentences_stand_in_their_report_in_the_same_order(out: Path) -> None:
    reports = {row["study"]: (out / "reports" / row["report"]).read_text() for row in rows(out / "truth/studies.csv")}
    flat = {study: " ".join(text.split()) for study, text in reports.items()}
    place = dict.fromkeys(flat, 0)
    for line in (out / "truth/sentences.jsonl").read_text().splitlines():
        sentence = json.loads(line)
        found = flat[sentence["study"]].find(sentence["sentence"], place[sentence["study"]])
        assert found >= 0, sentence["sentence"]
        place[sentence["study"]] = found + len(sentence["sentence"])


def test_training_labels_are_those_that_the_sentences_carry_but_for_the_noise(tmp_path: Path) -> None:
    quiet = replace(MEDIUM, label_noise=0.0)
    write_phantoms(tmp_path / "out", studies=30, size=64, seed=3, difficulty=quiet)
    said: dict[tuple[str, str], set[str]] = {}
    for line in (tmp_path / "out/truth/sentences.jsonl").read_text().splitlines():
        sentence = json.loads(line)
        for label in (sentence["finding"] or "").split("|"):
            said.setdefault((sentence["study"], label), set()).add(sentence["status"])
    value = {(): "", ("positive",): "1", ("negative",): "0", ("uncertain",): "-1"}
    for row in rows(tmp_path / "out/labels.csv"):
        for label in LABELS[1:]:
            assert row[label] == value[tuple(said.get((row["study"], label), ()))], label


def test_label_noise_turns_the_share_of_labels_that_it_says(tmp_path: Path) -> None:
    tables = {}
    for noise in (0.0, 0.3):
        folder = tmp_path / str(noise)
        write_phantoms(folder, studies=40, size=64, seed=3, difficulty=replace(MEDIUM, label_noise=noise))
        tables[noise] = rows(folder / "labels.csv")
        assert (folder / "truth/labels.csv").read_bytes() == (tmp_path / "0.0/truth/labels.csv").read_bytes()
    pairs = [(a[label], b[label]) for a, b in zip(*tables.values(), strict=True) for label in LABELS if a[label]]
    assert sum(a != b for a, b in pairs) / len(pairs) == pytest.approx(0.3, abs=0.1)


def test_true_labels_and_findings_agree(out: Path) -> None:
    found: dict[str, dict[str, set[str]]] = {}
    for row in rows(out / "truth/findings.csv"):
        found.setdefault(row["study"], {}).setdefault(row["label"], set()).add(row["certain"])
        assert (row["row0"] == "") == (row["drawn"] == "0")
    for row in rows(out / "truth/labels.csv"):
        mine = found.get(row["study"], {})
        for label in LABELS[1:]:
            assert row[label] == ("0" if label not in mine else "1" if "1" in mine[label] else "-1")
        assert row["No Finding"] == str(int(not set(mine) - {"Support Devices"}))
    drawn = [row for row in rows(out / "truth/findings.csv") if row["drawn"] == "1"]
    grades = {row["study"]: row["grade"] for row in drawn if row["label"] == "Edema"}
    for row in rows(out / "truth/studies.csv"):
        assert row["edema_severity"] == grades.get(row["study"], "0")


def test_what_the_indication_names_decides_no_label(out: Path) -> None:
    """Indications speak of edema, effusion and pneumothorax in healthy people too."""
    studies = {row["study"]: row["report"] for row in rows(out / "truth/studies.csv")}
    healthy = [row["study"] for row in rows(out / "truth/labels.csv") if row["No Finding"] == "1"]
    texts = [(out / "reports" / studies[study]).read_text().lower() for study in healthy]
    assert any(word in text.split("findings")[0] for text in texts for word in ("pneumothorax", "edema", "pneumonia"))
