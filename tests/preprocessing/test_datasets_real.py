"""Real images and reports in the form of their data sets; what is expected comes from the lists beside the data."""

import csv
import gzip
import json
from collections import defaultdict
from pathlib import Path

import cv2
from made_archive import picture
from made_datasets import check_account, labels, left_out, run, sentences, taken, write

from preprocessing.datasets.openi import image_key

NAMES = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}


def test_nih_images_with_their_labels(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["id"].startswith("nih64_")]
    root, patients = tmp_path / "in", sorted({row["patient"] for row in rows})
    test = set(patients[::5])
    lines, lists = [], defaultdict(list)
    for number, row in enumerate(rows):
        folder = root / f"images_{number % 3 + 1:03}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / row["orig"]).symlink_to(shared_data / row["file"])
        lines.append(f"{row['orig']},{row['labels'] or 'No Finding'},{row['patient'][3:]},{row['view']}")
        lists[row["patient"] in test].append(row["orig"])
    write(root / "Data_Entry_2017_v2020.csv", "Image Index,Finding Labels,Patient ID,View Position", *lines)
    write(root / "train_val_list.txt", *lists[False])
    write(root / "test_list.txt", *lists[True])
    summary = run(tmp_path, "nih14")
    store = tmp_path / "out"
    assert (summary.files.seen, summary.files.accepted, summary.labels_matched) == (len(rows), len(rows), len(rows))
    found = {path.rpartition("/")[2]: row for path, row in taken(store).items()}
    known = labels(store)
    for row in rows:
        study, patient, view, split = found[row["orig"]]
        assert (patient, view) == (row["patient"][3:], row["view"])
        assert (split == "test") == (row["patient"] in test)
        present = {name for name, value in known[study].items() if value == 1}
        assert present == {NAMES.get(name, name) for name in (row["labels"] or "No Finding").split("|")}
        assert len(known[study]) == 15
    assert {row[3] for row in found.values()} == {"training", "validation", "test"}
    assert left_out(store) == {}


def test_openi_reports_with_a_few_images(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (root / "ecgen-radiology").symlink_to(shared_data / "openi" / "xml")
    with (shared_data / "openi" / "reports.jsonl").open(encoding="utf-8") as lines:
        reports = [json.loads(line) for line in lines]
    chosen = [report for report in reports if report["images"] and report["sections"].get("impression")][:8]
    for number, report in enumerate(chosen):
        (root / "png").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "png" / f"{report['images'][0]}.png"), picture(number) >> 4)
    summary = run(tmp_path, "openi")
    store = tmp_path / "out"
    assert {path: row[:2] for path, row in taken(store).items()} == {
        f"png/{report['images'][0]}.png": (report["id"], report["id"]) for report in chosen
    }
    for report in chosen:
        said = " ".join(sentences(store)[report["id"]]).split()
        assert said
        assert set(said) <= {*report["sections"]["impression"].split()}
    count = sum(len(report["images"]) for report in reports)
    assert (summary.files.seen, summary.files.reasons) == (count, {"missing_file": count - 8})
    check_account(summary)
    assert summary.reports.seen == len(reports)
    assert summary.reports.accepted == 8


def test_the_key_of_an_image_is_the_same_for_its_xml_and_its_dicom_file(shared_data: Path) -> None:
    with gzip.open(shared_data / "openi" / "dicom_headers.csv.gz", "rt", encoding="utf-8") as table:
        rows = [(row["imageid"], row["filename"]) for row in csv.DictReader(table)]
    assert len(rows) > 2000
    for image, file in rows:
        assert image_key(f"{image}.png") == image_key(file) == image_key(f"images_normalized/{Path(file).name}.png")
