"""Every file ends in the store or in the rejects with a reason, and no identity leaves with it."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from made_archive import (
    REPORT,
    SMALL,
    contents,
    datalist,
    environment,
    items,
    picture,
    reasons,
    result,
    write_image,
    write_report,
)
from made_dicom import made
from pydicom import dcmwrite

import preprocessing.conversion
import preprocessing.ingest
import preprocessing.store_files
from preprocessing.configuration import IngestConfiguration
from preprocessing.conversion import ConversionSettings, Converted, convert
from preprocessing.errors import InputError
from preprocessing.ingest import ingest
from preprocessing.ingest_summary import IngestSummary
from preprocessing.sources import SourceImage


def test_a_study_goes_the_whole_way(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a" / "frontal.dcm", 1)
    write_image(tmp_path / "in" / "a" / "lateral", 1, SOPInstanceUID="1.2.3.99", ViewPosition="LL")
    write_report(tmp_path / "reports" / "1.2.1.txt")
    labels = tmp_path / "labels.csv"
    labels.write_text("study,Edema,Mass,Fracture,Hernia\nA1,1,0,,-1\n", encoding="utf-8")
    calls: list[tuple[int, int | None]] = []
    summary = ingest(
        tmp_path / "in",
        tmp_path / "out",
        reports=tmp_path / "reports",
        labels=labels,
        configuration=SMALL,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    store = tmp_path / "out"
    assert datalist(store)["label_names"] == ["Edema", "Mass", "Fracture", "Hernia"]
    assert datalist(store)["preprocessing"] | {"configuration_hash": ""} == {
        "preset": "voi",
        "size": 32,
        "bit_depth": 8,
        "interpolation": "area",
        "crop": False,
        "reduced_resolution": False,
        "range": [0, 255],
        "configuration_hash": "",
    }
    found = items(store)
    assert sorted(item["view"] for item in found) == ["LATERAL", "PA"]
    for item in found:
        assert list(item) == ["image", "study", "patient", "view", "sentences", "label", "edema_severity"]
        assert item["sentences"] == ["The lungs are clear.", "No effusion.", "Normal chest."]
        assert item["label"] == [1, 0, None, -1]
        array = np.load(store / item["image"])
        assert (array.dtype, array.shape) == (np.uint8, (32, 32))
        assert array[0, 4] > 200  # the mark: upper left of the picture, which is 24 of 32 columns wide
        assert array[31, 27] < 160
    assert (summary.files.seen, summary.files.accepted, summary.reports.accepted) == (2, 2, 1)
    assert (summary.studies, summary.patients, summary.labels_matched) == (1, 1, 1)
    assert calls[0] == (0, 2)
    assert calls[-1] == (2, 2)
    run = json.loads((store / "run.json").read_text(encoding="utf-8"))
    assert run["counts"]["files"]["accepted"] == 2
    assert run["seed"] == 0
    assert cv2.imread(str(store / "contact_sheet.png"), cv2.IMREAD_GRAYSCALE).std() > 0


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_image(source / "good.dcm", 1)
    write_image(source / "ct.dcm", 2, Modality="CT")
    write_image(source / "hand.dcm", 3, BodyPartExamined="HAND")
    write_image(source / "raw.dcm", 4, PresentationIntentType="FOR PROCESSING")
    write_image(source / "burned.dcm", 5, BurnedInAnnotation="YES")
    write_image(source / "blank.dcm", 6, BodyPartExamined="")
    write_image(source / "same.dcm", 1)
    write_image(source / "clash_a.dcm", 7)
    write_image(source / "clash_b.dcm", 7, PixelIntensityRelationship="LIN")
    write_image(source / "of_two_a.dcm", 8, StudyInstanceUID="1.2.88")
    write_image(source / "of_two_b.dcm", 9, StudyInstanceUID="1.2.88")
    (source / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (source / "notes.txt").write_text("not an image", encoding="utf-8")
    (source / "empty.dcm").touch()
    (source / "loop").symlink_to(source)
    whole = write_image(source / "cut.dcm", 10).read_bytes()
    (source / "cut.dcm").write_bytes(whole[:-200])
    summary = ingest(source, tmp_path / "out", configuration=SMALL)
    assert reasons(tmp_path / "out") == {
        "ct.dcm": "other_modality",
        "hand.dcm": "other_body_part",
        "raw.dcm": "for_processing",
        "burned.dcm": "burned_in_annotation",
        "same.dcm": "duplicate",
        "clash_a.dcm": "duplicate_uid",
        "clash_b.dcm": "duplicate_uid",
        "of_two_a.dcm": "study_of_two_patients",
        "of_two_b.dcm": "study_of_two_patients",
        ".DS_Store": "not_dicom",
        "notes.txt": "not_dicom",
        "empty.dcm": "empty_file",
        "loop": "not_a_file",
        "cut.dcm": "truncated",
    }
    assert (summary.files.seen, summary.files.accepted, summary.files.duplicates) == (16, 2, 1)
    assert summary.flags["body_part_blank"] == 1
    assert len(list((tmp_path / "out" / "images").rglob("*.npy"))) == 2


def test_an_image_that_belongs_to_two_is_taken_for_none(tmp_path: Path) -> None:
    for name in ("shared", "twice", "own"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), (picture() >> 4).astype(np.uint8))
    rows = ["shared.png,s1,p1", "./shared.png,s2,p2", "twice.png,s3,p3", "twice.png,s3,p3", "own.png,s4,p4"]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("image,study,patient\n" + "\n".join(rows), encoding="utf-8")
    summary = ingest(None, tmp_path / "out", manifest=manifest, configuration=SMALL)
    assert summary.files.reasons == {"image_of_two_studies": 2}
    assert (summary.files.accepted, summary.files.duplicates) == (2, 1)


def test_images_without_a_patient_leave_a_study_that_has_one(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "named.dcm", 1, StudyInstanceUID="1.2.9")
    write_image(tmp_path / "in" / "blank.dcm", 2, StudyInstanceUID="1.2.9", PatientID="")
    for number in (3, 4):
        write_image(tmp_path / "in" / f"all_blank_{number}.dcm", number, StudyInstanceUID="1.2.8", PatientID="")
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    assert reasons(tmp_path / "out") == {"blank.dcm": "patient_id_missing_in_part"}
    assert len(items(tmp_path / "out")) == 3


def test_names_that_are_not_utf_8_and_links_in_loops_stop_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / os.fsdecode(b"f\xfcr.dcm"), 1)
    write_image(tmp_path / "in" / r"f\xfcr.dcm", 2, Modality="CT")
    (tmp_path / "in" / os.fsdecode(b"\xff")).write_bytes(b"clutter")
    (tmp_path / "in" / "loop").symlink_to("loop")
    write_report(tmp_path / "reports" / os.fsdecode(b"\xe4.txt"))
    summary = ingest(tmp_path / "in", tmp_path / "out", reports=tmp_path / "reports", configuration=SMALL)
    assert summary.files.accepted == 1
    found = reasons(tmp_path / "out")
    assert found.pop("loop")
    assert found == {r"f\\xfcr.dcm": "other_modality", r"\xff": "not_dicom"}
    assert reasons(tmp_path / "out", "report") == {r"\xe4.txt": "no_such_study"}
    originals = pl.read_parquet(tmp_path / "out.private" / "identity.parquet")["original"].to_list()
    assert r"f\xfcr.dcm" in originals


def test_a_header_value_that_no_table_holds_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.ingest, "convert", convert_with_a_wide_value)
    for number, name in enumerate(["good", "wide"]):
        write_image(tmp_path / "in" / f"{name}.dcm", number)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    assert reasons(tmp_path / "out") == {"wide.dcm": "impossible_value"}


def convert_with_a_wide_value(settings: ConversionSettings, source: SourceImage) -> Converted:
    """`convert`, with a header that claims 300 bits for files whose names ask for it."""
    facts = preprocessing.conversion.image_facts
    wide = (lambda dataset: replace(facts(dataset), bits_stored=300)) if "wide" in source.origin else facts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing.conversion, "image_facts", wide)
        return convert(settings, source)


def test_another_source_does_not_take_the_place_of_the_first(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.dcm", 1)
    write_image(tmp_path / "b" / "2.dcm", 2)
    ingest(tmp_path / "a", tmp_path / "out", configuration=SMALL)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="was made from another source"):
        ingest(tmp_path / "b", tmp_path / "out", configuration=SMALL)
    assert contents(tmp_path) == before


FULL = """
import resource, sys
from pathlib import Path
from preprocessing.errors import InputError
from preprocessing.configuration import IngestConfiguration
from preprocessing.ingest import ingest

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        ingest(Path(sys.argv[1]), Path(sys.argv[2]), configuration=IngestConfiguration(size=int(sys.argv[4])))
    except InputError as error:
        raise SystemExit(str(error))
"""


@pytest.mark.parametrize(("size", "left"), [(32, []), (512, ["full.py", "in"])])
def test_a_store_that_cannot_be_written_ends_the_job(tmp_path: Path, size: int, left: list[str]) -> None:
    """A limit of 100 kB: an array of 512 pixels has 262 kB; of what could be written, nothing is lost."""
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.dcm", number)
    (tmp_path / "full.py").write_text(FULL, encoding="utf-8")
    command = [sys.executable, tmp_path / "full.py", tmp_path / "in", tmp_path / "out", str(100_000), str(size)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())
    if left:
        assert (
            run.stderr
            == f"{tmp_path / 'out'}: cannot be written (File too large); make room for it, or name another folder\n"
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == left
    else:
        assert run.returncode == 0


def interrupted(source: Path, store: Path, after: int, **changes: Any) -> None:
    """An ingest run that is ended when it has converted some files."""

    def stop(done: int, total: int | None) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, store, configuration=replace(SMALL, **changes), on_progress=stop)


def test_a_store_is_complete_until_an_array_of_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill between two steps leaves: a datalist whose arrays are all there, or no run record."""
    store, path = tmp_path / "out", tmp_path / "in" / "1.dcm"
    write_image(path, 1)
    gone = write_image(tmp_path / "in" / "2.dcm", 2)
    ingest(tmp_path / "in", store, configuration=SMALL)
    write_image(tmp_path / "in" / "3.dcm", 3)
    interrupted(tmp_path / "in", store, 1)
    assert (store / "run.json").exists()  # one array more changes none
    write_image(path, 1, WindowCenter="100", WindowWidth="10")
    interrupted(tmp_path / "in", store, 1)
    assert not (store / "run.json").exists()
    gone.unlink()

    def fail(path: Path, content: Any, mode: int = 0) -> str:
        if path.name == "datalist.json":
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(preprocessing.store_files, "write_atomically", fail)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "in", store, configuration=SMALL)
    assert len(items(store)) == 2
    assert all((store / item["image"]).exists() for item in items(store))


def test_a_store_may_be_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    summary = ingest(tmp_path / "in", Path(), configuration=SMALL)
    assert (tmp_path / "work" / "datalist.json").exists()
    assert summary.private == tmp_path / "work.private"
    with pytest.raises(InputError, match="no place"):
        ingest(tmp_path / "in", Path("/"), configuration=SMALL)


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(File name too long"):
        ingest(tmp_path / ("x" * 300), tmp_path / "out", configuration=SMALL)
    (tmp_path / "in").mkdir()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"in: cannot be read \(Permission denied"):
        ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)


@pytest.mark.parametrize("wrong", ["labels", "splits"])
def test_what_is_known_to_be_wrong_is_refused_before_the_work(tmp_path: Path, wrong: str) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), (picture() >> 4).astype(np.uint8))
    manifest, labels = tmp_path / "manifest.csv", tmp_path / "labels.csv"
    second = "test" if wrong == "splits" else "train"
    manifest.write_text(f"image,study,patient,split\na.png,s1,p,train\nb.png,s2,p,{second}\n", encoding="utf-8")
    labels.write_text(f"study,{'split' if wrong == 'labels' else 'Edema'}\ns1,1\n", encoding="utf-8")
    calls: list[int] = []
    with pytest.raises(InputError, match=r"cannot be named 'split'|1 patients into more than one split"):
        ingest(
            None,
            tmp_path / "out",
            manifest=manifest,
            labels=labels,
            configuration=SMALL,
            on_progress=lambda done, total: calls.append(done),
        )
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_an_accession_number_of_two_studies_is_never_guessed(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "chest.dcm", 1, AccessionNumber="A")
    write_image(tmp_path / "in" / "ct.dcm", 2, AccessionNumber="A", Modality="CT")  # left out, and yet A may mean it
    write_image(tmp_path / "in" / "other.dcm", 3, AccessionNumber="1.2.1")  # the first study's id
    write_image(tmp_path / "in" / "same.dcm", 4, AccessionNumber="B")
    write_image(tmp_path / "in" / "same_ct.dcm", 5, StudyInstanceUID="1.2.4", AccessionNumber="B", Modality="CT")
    for name in ("A", "1.2.1", "1.2.2", "B"):
        write_report(tmp_path / "reports" / f"{name}.txt")
    summary = ingest(tmp_path / "in", tmp_path / "out", reports=tmp_path / "reports", configuration=SMALL)
    assert reasons(tmp_path / "out", "report") == {
        "A.txt": "ambiguous_accession",
        "1.2.1.txt": "ambiguous_accession",
        "1.2.2.txt": "no_usable_image",
    }
    assert summary.reports.accepted == 1


def test_every_frame_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "in" / "many.dcm"
    path.parent.mkdir()
    dcmwrite(path, made(np.stack([picture(1), picture(2), picture(3)])), enforce_file_format=False)
    summary = ingest(path, tmp_path / "out", configuration=SMALL)
    images = pl.read_parquet(tmp_path / "out" / "images.parquet")
    assert sorted(images["frame"]) == [1, 2, 3]
    assert images["image"].n_unique() == 3
    assert (summary.files.accepted, summary.images) == (1, 3)


def test_reports_that_fit_no_study_or_several_are_listed(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4, 5, 6):
        write_image(
            tmp_path / "in" / f"{number}.dcm", number, AccessionNumber="SHARED" if number in (5, 6) else f"A{number}"
        )
    write_image(tmp_path / "in" / "ct.dcm", 7, Modality="CT")
    reports = tmp_path / "reports"
    write_report(reports / "1.2.1.txt")
    write_report(reports / "A1.txt", REPORT.replace("\n", "\r\n"))  # the same report again
    write_report(reports / "A2.txt", "EXAM: Chest.\nINDICATION: Cough.\n")
    write_report(reports / "1.2.3.txt")
    write_report(reports / "A3.txt", "IMPRESSION: Edema.\n")
    write_report(reports / "SHARED.txt")
    write_report(reports / "A7.txt")
    write_report(reports / "unknown.txt")
    (reports / "A4.txt").write_bytes(b"%PDF-1.4")
    summary = ingest(tmp_path / "in", tmp_path / "out", reports=reports, configuration=SMALL)
    assert reasons(tmp_path / "out", "report") == {
        "A1.txt": "duplicate",
        "1.2.3.txt": "several_reports",
        "A3.txt": "several_reports",
        "SHARED.txt": "ambiguous_accession",
        "A7.txt": "no_usable_image",
        "unknown.txt": "no_such_study",
        "A4.txt": "not_text",
    }
    assert summary.report_status == {"paired": 1, "no_usable_text": 1, "several_reports": 1, "no_report": 3}
    assert (summary.reports.seen, summary.reports.accepted, summary.reports.duplicates) == (9, 2, 1)
    studies = pl.read_parquet(tmp_path / "out" / "studies.parquet")
    without = studies.row(by_predicate=pl.col("report_status") == "no_usable_text", named=True)
    assert without["report_reason"] == "no_section_of_the_policy"
    assert without["sections"] == ["examination", "indication"]


def test_png_files_come_through_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("one", "two"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), (picture() >> 4).astype(np.uint8))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "image,study,patient,view,text,split\n"
        "images/one.png,s1,p1,AP Supine,Clear lungs. Normal heart.,train\n"
        "images/two.png,s2,p2,,,test\n"
        "images/none.png,s3,p3,PA,Edema.,val\n",
        encoding="utf-8",
    )
    configuration = IngestConfiguration(size=32, text_policy="impression-else-findings-else-body")
    summary = ingest(None, tmp_path / "out", manifest=manifest, configuration=configuration)
    (one,) = datalist(tmp_path / "out")["training"]
    (two,) = datalist(tmp_path / "out")["test"]
    assert (one["view"], one["sentences"]) == ("AP", ["Clear lungs.", "Normal heart."])
    assert (two["view"], two["sentences"]) == ("UNKNOWN", [])
    assert np.load(tmp_path / "out" / one["image"])[0, 4] > 200
    assert summary.files.reasons == {"missing_file": 1}
    assert summary.reports.reasons == {"no_usable_image": 1}


PLANTED = {
    "PatientName": "ZWIEBELKRAUT^OTTILIE",
    "PatientID": "MRN-77412-QX",
    "AccessionNumber": "ACC-551-ZZTOP",
    "PatientBirthDate": "19470311",
    "StudyDate": "20210417",
    "InstitutionName": "ST. PANKRATIUS KLINIKUM",
    "ReferringPhysicianName": "DR^KNOBLAUCH",
    "StudyInstanceUID": "1.2.826.99.1234567.1",
    "SeriesInstanceUID": "1.2.826.99.1234567.2",
    "StudyDescription": "THORAX VON FRAU ZWIEBELKRAUT",
    "PatientComments": "NEIGHBOUR OF KNOBLAUCH",
}


def test_no_planted_identifier_is_in_any_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "secretfolder_wing7"
    planted = [part for value in PLANTED.values() for part in value.split("^") if len(part) > 4]
    planted += ["ZWIEBELKRAUT", "OTTILIE", "secretfolder", "wing7", "secretfile", "1.2.826.99"]
    write_image(source / "secretfile_a.dcm", 1, **PLANTED, SOPInstanceUID="1.2.826.99.1234567.3")
    write_image(source / "secretfile_b.dcm", 1, **PLANTED, SOPInstanceUID="1.2.826.99.1234567.3")
    write_image(
        source / "secretfile_c.dcm", 2, **(PLANTED | {"Modality": "KNOBLAUCH", "SOPInstanceUID": "1.2.826.99.4"})
    )
    write_image(
        source / "secretfile_d.dcm", 3, **(PLANTED | {"BodyPartExamined": "OTTILIE", "SOPInstanceUID": "1.2.826.99.5"})
    )
    (source / "secretfile_e.dcm").write_bytes(b"ZWIEBELKRAUT")
    reports = tmp_path / "secretfolder_reports"
    write_report(reports / "ACC-551-ZZTOP.txt", "HISTORY: Frau ZWIEBELKRAUT, born 19470311.\n" + REPORT)
    write_report(reports / "MRN-77412-QX.txt", "FINDINGS: ZWIEBELKRAUT\n")
    summary = ingest(source, tmp_path / "out", reports=reports, configuration=SMALL)
    assert summary.report_status == {"paired": 1}
    store = tmp_path / "out"
    outputs = contents(store)
    for name in ("images", "studies", "rejects"):
        outputs[f"decoded {name}"] = pl.read_parquet(store / f"{name}.parquet").write_json().encode()
    out, err = capfd.readouterr()
    outputs["terminal"] = (out + err + json.dumps(summary.counts())).encode()
    for name, content in outputs.items():
        for identifier in planted:
            for encoding in ("utf-8", "utf-16-le"):
                assert identifier.lower().encode(encoding) not in content.lower(), (identifier, name)
            assert identifier.lower() not in name.lower()
    private = tmp_path / "out.private"
    modes = {path.name: path.stat().st_mode & 0o077 for path in private.iterdir()}
    assert modes.pop(".lock") is not None  # empty
    assert modes == {"key": 0, "ledger.sqlite": 0, "identity.parquet": 0}
    assert private.stat().st_mode & 0o777 == 0o700
    assert "MRN-77412-QX" in pl.read_parquet(private / "identity.parquet")["original"].to_list()


def cohort(source: Path, patients: int) -> None:
    for patient in range(patients):
        for visit in range(2):
            number = patient * 10 + visit
            write_image(source / f"{number}.dcm", number, PatientID=f"patient {patient}")


def split_by_patient(store: Path) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = {}
    for split in ("training", "validation", "test"):
        for item in datalist(store)[split]:
            splits.setdefault(item["patient"], set()).add(split)
    return splits


def test_a_patient_is_in_one_split_and_a_new_one_moves_nobody(tmp_path: Path) -> None:
    cohort(tmp_path / "in", 12)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    before = split_by_patient(tmp_path / "out")
    assert len(before) == 12
    assert all(len(splits) == 1 for splits in before.values())
    assert len(set.union(*before.values())) > 1
    cohort(tmp_path / "in", 13)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    after = split_by_patient(tmp_path / "out")
    assert len(after) == 13
    assert all(after[patient] == splits for patient, splits in before.items())


def test_the_same_run_gives_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    cohort(tmp_path / "in", 3)
    (tmp_path / "in" / "clutter").write_bytes(b"x")
    write_report(tmp_path / "reports" / "1.2.10.txt")
    results = []
    for workers in (1, 2):
        configuration = IngestConfiguration(size=32, workers=workers)
        (tmp_path / "out.private" / "ledger.sqlite").unlink(missing_ok=True)  # so that all is converted again
        summary = ingest(tmp_path / "in", tmp_path / "out", reports=tmp_path / "reports", configuration=configuration)
        assert summary.converted == 7
        results.append(result(tmp_path / "out"))
    assert results[0] == results[1]
    assert len(results[0]) > 10


def test_a_file_that_is_gone_leaves_the_store_at_the_next_run(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    gone = write_image(tmp_path / "in" / "2.dcm", 2)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    gone.unlink()
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    assert len(items(tmp_path / "out")) == 1
    assert len(list((tmp_path / "out" / "images").rglob("*.npy"))) == 1


@pytest.mark.parametrize(
    ("prepare", "arguments", "named"),
    [
        (None, {}, "in: there is no such"),
        ("empty", {}, "in: holds no files"),
        ("clutter", {}, "2 not_dicom"),
        ("image", {"reports": "nowhere"}, "nowhere"),
        ("image", {"labels": "nowhere.csv"}, "nowhere"),
        ("image", {"manifest": "nowhere.csv"}, "nowhere"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, prepare: str | None, arguments: dict[str, str], named: str
) -> None:
    source = tmp_path / "in"
    if prepare is not None:
        source.mkdir()
    if prepare == "clutter":
        (source / "a.txt").write_text("a", encoding="utf-8")
        (source / "b").mkdir()
        (source / "b" / "c.dcm").write_text("c", encoding="utf-8")
    if prepare == "image":
        write_image(source / "1.dcm", 1)
    before = contents(tmp_path)
    paths = {name: tmp_path / value for name, value in arguments.items()}
    with pytest.raises(InputError, match=named) as raised:
        ingest(source, tmp_path / "deep" / "out", configuration=SMALL, **paths)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert contents(tmp_path) == before
    assert not (tmp_path / "deep").exists()


def test_a_wrong_table_loses_no_work(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    labels = tmp_path / "labels.csv"
    labels.write_text("study,Edema\nzzz,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="not one of its 1 studies"):
        ingest(tmp_path / "in", tmp_path / "out", labels=labels, configuration=SMALL)
    assert not (tmp_path / "out" / "run.json").exists()
    labels.write_text("study,Edema\n1.2.1,1\n", encoding="utf-8")
    summary = ingest(tmp_path / "in", tmp_path / "out", labels=labels, configuration=SMALL)
    assert (summary.converted, summary.labels_matched) == (0, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "pretty"},
        {"image_format": "tiff"},
        {"bit_depth": 12},
        {"interpolation": "nearest"},
        {"burned_in": "maybe"},
        {"for_processing": "guess"},
        {"captures": "some"},
        {"text_policy": "all"},
        {"size": 0},
        {"workers": 0},
        {"split_fractions": (0.5, 0.1, 0.1)},
        {"minimum_words": 0},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"choose"):
        IngestConfiguration(**wrong)


def convert_unless_deadly(settings: ConversionSettings, source: SourceImage) -> Converted:
    """`convert`, but for files whose names say how their decoder fails; once only if a token lies beside them."""
    token = Path(source.path).with_suffix(".token")
    if "hang" in source.origin:
        time.sleep(60)
    if "kill" in source.origin and not token.exists():
        token.touch() if "once" in source.origin else None
        os.kill(os.getpid(), signal.SIGKILL)
    return convert(settings, source)


def test_a_worker_that_dies_costs_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.ingest, "convert", convert_unless_deadly)
    monkeypatch.setattr(preprocessing.ingest, "TIME_LIMIT", 3.0)
    for number, name in enumerate(["a", "b", "kill_always", "c", "kill_once", "d", "hang"]):
        write_image(tmp_path / "in" / f"{name}.dcm", number)
    summary = ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    assert reasons(tmp_path / "out") == {"kill_always.dcm": "worker_crashed", "hang.dcm": "timed_out"}
    assert summary.files.accepted == 5


def test_a_second_process_on_the_same_output_stops(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from preprocessing.errors import InputError
        from preprocessing.ingest import ingest
        if __name__ == "__main__":
            try:
                ingest(Path({str(tmp_path / "in")!r}), Path({str(tmp_path / "out")!r}))
            except InputError as error:
                raise SystemExit(str(error))
    """)

    def second(done: int, total: int | None) -> None:
        if done == 0:
            run = subprocess.run(
                [sys.executable, "-c", script],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env=environment(),
            )
            seen.append((run.returncode, run.stderr))

    seen: list[tuple[int, str]] = []
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, on_progress=second)
    ((code, message),) = seen
    assert code == 1
    assert "another job is writing to this store" in message
    assert len(items(tmp_path / "out")) == 1


def real_outcomes(shared_data: Path, tmp_path: Path) -> tuple[IngestSummary, dict[str, str]]:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("dicom_real", "dicom_derived"):
        for path in (shared_data / name).iterdir():
            (source / f"{name}__{path.name}").symlink_to(path)
    summary = ingest(source, tmp_path / "out", configuration=SMALL)
    return summary, {name.split("__")[1]: reason for name, reason in reasons(tmp_path / "out").items()}


def test_every_real_file_ends_in_the_store_or_in_the_rejects(shared_data: Path, tmp_path: Path) -> None:
    """The oracle is the headers as listed beside the files, not as read here."""
    summary, outcome = real_outcomes(shared_data, tmp_path)
    with (shared_data / "dicom_derived_manifest.csv").open(encoding="utf-8") as rows:
        derived = {Path(row["file"]).name: row for row in csv.DictReader(rows)}
    for name, row in derived.items():
        assert outcome.get(name) == (None if row["body"] == "CHEST" else "other_body_part"), name
    with (shared_data / "dicom_real_manifest.csv").open(encoding="utf-8") as rows:
        real = {Path(row["file"]).name: row for row in csv.DictReader(rows)}
    same_uid = {"Fake_MONOHR1.dcm", "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"}
    for name, row in real.items():
        modality, body = row["Modality"], row["BodyPartExamined"]
        if row["expect"] == "no-pixels":
            assert outcome[name] in ("no_pixel_data", "truncated", "corrupt_header", "not_dicom"), name
        elif name in same_uid:
            assert outcome[name] == "duplicate_uid"
        elif modality in ("CR", "DX") and body == "CHEST":
            assert name not in outcome
        elif modality in ("CR", "DX"):
            assert outcome[name] == "other_body_part", name
        else:
            assert outcome[name], name
    assert outcome["not_dicom_html.dcm"] == "not_dicom"
    assert all(outcome[p.name] == "not_dicom" for p in (shared_data / "dicom_derived").glob("*.png"))
    seen = len(list((shared_data / "dicom_real").iterdir())) + len(list((shared_data / "dicom_derived").iterdir()))
    assert summary.files.seen == seen
    assert Counter(reason != "duplicate" for reason in outcome.values())[True] == summary.files.rejected
    assert summary.files.accepted == summary.images == len(list((tmp_path / "out" / "images").rglob("*.npy"))) > 10
