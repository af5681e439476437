"""Trees that are not what a data set should be: one sentence for the whole, or a listed reason for the part."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_archive import contents, picture, result, write_image
from made_datasets import CHEXPERT, SMALL, check_account, fourteen, labels, left_out, run, sentences, taken, write
from made_datasets import write_raster as rasters

from preprocessing.datasets import LeftOut, read_dataset
from preprocessing.datasets.collection import Collection, Tree, stem, without_suffix
from preprocessing.datasets.labels import findings_of, label_lists, names_of
from preprocessing.datasets.padchest import listed_labels
from preprocessing.errors import InputError
from preprocessing.ingest import ingest

VINDR = ",".join(name for name in names_of("vindr-cxr").labels)
TREES: dict[str, dict[str, tuple[str, ...]]] = {
    "nih14": {
        "Data_Entry_2017_v2020.csv": (
            "Image Index,Finding Labels,Patient ID,View Position",
            "1_000.png,Mass,1,PA",
        ),
        "train_val_list.txt": ("1_000.png",),
        "test_list.txt": ("2_000.png",),
    },
    "mimic-cxr-jpg": {
        "mimic-cxr-2.0.0-metadata.csv": ("dicom_id,subject_id,study_id,ViewPosition", "a,10000032,50414267,PA"),
        "mimic-cxr-2.0.0-split.csv": ("dicom_id,study_id,subject_id,split", "a,50414267,10000032,train"),
        "mimic-cxr-2.0.0-chexpert.csv": (f"study_id,{CHEXPERT}", f"50414267,{fourteen(Edema='1')}"),
    },
    "chexpert": {
        "train.csv": (
            f"Path,Frontal/Lateral,AP/PA,{CHEXPERT}",
            f"CheXpert-v1.0/train/patient1/study1/view1_frontal.jpg,Frontal,AP,{fourteen()}",
        ),
    },
    "chexpert-plus": {
        "df_chexpert_plus_240401.csv": (
            "path_to_image,deid_patient_id,section_findings,section_impression,split",
            "train/patient1/study1/view1_frontal.jpg,patient1,Clear.,Normal.,train",
        ),
    },
    "padchest": {
        "PADCHEST_chest_x_ray_images_labels_160K.csv": (
            "ImageID,ImageDir,StudyID,PatientID,Projection,Labels",
            "a.png,0,S,P,PA,['normal']",
        ),
    },
    "vindr-cxr": {
        "image_labels_train.csv": (f"image_id,rad_id,{VINDR}", "a,R1" + ",0" * 28),
        "image_labels_test.csv": (f"image_id,{VINDR}", "b" + ",0" * 28),
    },
    "brax": {
        "master_spreadsheet_update.csv": (
            f"PngPath,PatientID,AccessionNumber,ViewPosition,{CHEXPERT}",
            f"images/a.png,P,A,PA,{fourteen()}",
        ),
    },
    "covid-chestxray": {
        "metadata.csv": (
            "patientid,finding,view,modality,folder,filename",
            "1,COVID-19,PA,X-ray,images,a.png",
        ),
    },
    "openi": {
        "indiana_reports.csv": ("uid,indication,comparison,findings,impression", "1,,,Clear.,"),
        "indiana_projections.csv": ("uid,filename,projection", "1,1_IM-0001-4001.dcm.png,Frontal"),
    },
}
NOT_NEEDED = {"mimic-cxr-2.0.0-chexpert.csv", "indiana_reports.csv"}
IMAGES = {
    "nih14": "1_000.png",
    "mimic-cxr-jpg": "files/p10/p10000032/s50414267/a.jpg",
    "chexpert": "train/patient1/study1/view1_frontal.jpg",
    "chexpert-plus": "train/patient1/study1/view1_frontal.jpg",
    "padchest": "0/a.png",
    "vindr-cxr": "train/a.png",
    "brax": "images/a.png",
    "covid-chestxray": "images/a.png",
    "openi": "images/1_IM-0001-4001.dcm.png",
}
TABLES = [(name, table) for name, tables in TREES.items() for table in tables if table.endswith(".csv")]
COLUMNS = [
    (name, table, column)
    for name, table in TABLES
    for column in TREES[name][table][0].split(",")
    if column not in ("rad_id", "Frontal/Lateral", "AP/PA", "ViewPosition", "subject_id", "study_id")
]


def tree(root: Path, name: str, **changes: tuple[str, ...] | None) -> None:
    """The small tree of a set with its image; tables by name changed, or left out where `None`."""
    for table, lines in {**TREES[name], **changes}.items():
        if lines is not None:
            write(root / table, *lines)
    rasters(root, IMAGES[name])


def refused(tmp_path: Path, name: str, *named: str) -> None:
    before = contents(tmp_path)
    with pytest.raises(InputError) as raised:
        run(tmp_path, name)
    message = str(raised.value)
    assert "\n" not in message
    for word in named:
        assert word in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", TREES)
def test_the_small_trees_are_good(tmp_path: Path, name: str) -> None:
    tree(tmp_path / "in", name)
    summary = run(tmp_path, name)
    assert list(taken(tmp_path / "out")) == [IMAGES[name]]
    check_account(summary)


@pytest.mark.parametrize(("name", "table"), [(n, t) for n in TREES for t in TREES[n] if t not in NOT_NEEDED])
def test_a_missing_table_is_named(tmp_path: Path, name: str, table: str) -> None:
    tree(tmp_path / "in", name, **{table: None})
    refused(tmp_path, name, str(tmp_path / "in"), table.split("_")[0].split(".")[0], "name the folder")


@pytest.mark.parametrize(("name", "table", "column"), COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, name: str, table: str, column: str) -> None:
    header, *rows = TREES[name][table]
    names = ["other" if written == column else written for written in header.split(",")]
    tree(tmp_path / "in", name, **{table: (",".join(names), *rows)})
    refused(tmp_path, name, table, repr(column))


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_an_empty_table_is_named(tmp_path: Path, name: str, table: str) -> None:
    tree(tmp_path / "in", name, **{table: TREES[name][table][:1]})
    refused(tmp_path, name, table, "holds no row")


@pytest.mark.parametrize("name", [*TREES, "mimic-cxr", "openi"])
def test_a_folder_of_something_else_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "holiday.jpg").write_bytes(b"")
    refused(tmp_path, name, str(tmp_path / "in"), "name the folder")


def test_a_set_is_a_folder_and_comes_without_a_manifest(tmp_path: Path) -> None:
    refused(tmp_path, "nih14", "there is no such folder")
    manifest = write(tmp_path / "m.csv", "image,study,patient", "a.png,s,p")
    with pytest.raises(InputError, match="no manifest"):
        run(tmp_path, "nih14", manifest=manifest)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
def test_tables_may_have_other_encodings(tmp_path: Path, encoding: str) -> None:
    root = tmp_path / "in"
    tree(root, "covid-chestxray")
    text = "patientid,finding,view,modality,folder,filename,clinical_notes\n1,,PA,X-ray,images,a.png,Ödem der Lunge.\n"
    (root / "metadata.csv").write_bytes(text.encode(encoding))
    run(tmp_path, "covid-chestxray")
    assert sentences(tmp_path / "out") == {"a": ["Ödem der Lunge."]}


def test_rows_that_are_there_twice_are_duplicates_or_contradictions(tmp_path: Path) -> None:
    header, row = TREES["brax"]["master_spreadsheet_update.csv"]
    torn = [f"images/b.png,{patient},B,PA,{fourteen()}" for patient in ("P2", "P3")]
    tree(tmp_path / "in", "brax", **{"master_spreadsheet_update.csv": (header, row, row, *torn)})
    rasters(tmp_path / "in", "images/b.png")
    summary = run(tmp_path, "brax")
    assert (summary.files.seen, summary.files.accepted, summary.files.duplicates) == (4, 1, 1)
    assert summary.files.reasons == {"image_of_two_studies": 2}


def test_a_patient_in_two_official_parts_is_refused(tmp_path: Path) -> None:
    row = f"CheXpert-v1.0/valid/patient1/study2/view1_frontal.jpg,{fourteen()}"
    tree(tmp_path / "in", "chexpert", **{"valid.csv": (f"Path,{CHEXPERT}", row)})
    refused(tmp_path, "chexpert", "1 patients into more than one split")


def test_an_image_in_both_lists_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "in", "nih14", **{"test_list.txt": ("1_000.png",)})
    refused(tmp_path, "nih14", "both name an image")


def test_an_unknown_part_of_the_split_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "in", "mimic-cxr-jpg", **{"mimic-cxr-2.0.0-split.csv": ("dicom_id,split", "a,fold 3")})
    refused(tmp_path, "mimic-cxr-jpg", "mimic-cxr-2.0.0-split.csv", "1 rows")


@pytest.mark.parametrize(
    ("name", "table", "row", "reason"),
    [
        ("nih14", "Data_Entry_2017_v2020.csv", "1_000.png,Mass|Kitten,1,PA", "label_value"),
        ("nih14", "Data_Entry_2017_v2020.csv", "1_000.png,No Finding|Mass,1,PA", "label_value"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K.csv", "a.png,0,S,P,PA,normal", "label_value"),
        ("brax", "master_spreadsheet_update.csv", f"images/a.png,P,A,PA,{fourteen(Edema='yes')}", "label_value"),
        ("vindr-cxr", "image_labels_train.csv", "a,R1,-1" + ",0" * 27, "label_value"),
    ],
)
def test_a_value_that_is_no_label_is_unknown_and_listed(
    tmp_path: Path, name: str, table: str, row: str, reason: str
) -> None:
    tree(tmp_path / "in", name, **{table: (TREES[name][table][0], row)})
    summary = run(tmp_path, name)
    rejects = left_out(tmp_path / "out")
    assert [kept for origin, kept in rejects.items() if origin.startswith(f"label {table} row 2")] == [reason]
    (known,) = labels(tmp_path / "out").values()
    assert "Edema" not in known or name == "vindr-cxr"
    assert "No Finding" not in known or name == "vindr-cxr"
    assert summary.files.accepted == 1
    check_account(summary)


def test_rows_without_image_patient_or_study_are_listed_once(tmp_path: Path) -> None:
    header, row = TREES["brax"]["master_spreadsheet_update.csv"]
    bad = [f"{image},{patient},{study},PA,{fourteen(Edema='1')}" for image, patient, study in (
        ("", "P", "A"), ("images/b.png", "", "B"), ("images/c.png", "P", ""),
    )]  # fmt: skip
    tree(tmp_path / "in", "brax", **{"master_spreadsheet_update.csv": (header, row, *bad)})
    rasters(tmp_path / "in", "images/b.png", "images/c.png")
    summary = run(tmp_path, "brax")
    table = "image master_spreadsheet_update.csv row"
    assert left_out(tmp_path / "out") == {
        f"{table} 3": "no_image",
        f"{table} 4": "no_patient",
        f"{table} 5": "no_study",
    }
    assert summary.files.seen == 4


def test_a_second_run_has_the_same_result_and_a_changed_table_is_seen(tmp_path: Path) -> None:
    """The store lies in the folder of the set, and its own pictures are no images of the set."""
    root = tmp_path / "in"
    tree(root, "padchest")
    configuration = replace(SMALL, dataset="padchest", image_format="png")
    ingest(root, root / "out", configuration=configuration)
    first = result(root / "out")
    again = ingest(root, root / "out", configuration=configuration)
    assert again.converted == 0
    assert result(root / "out") == first
    assert left_out(root / "out") == {}
    header, row = TREES["padchest"]["PADCHEST_chest_x_ray_images_labels_160K.csv"]
    columns = f"{header},PhotometricInterpretation_DICOM"
    write(root / "PADCHEST_chest_x_ray_images_labels_160K.csv", columns, f"{row},MONOCHROME1")
    changed = ingest(root, root / "out", configuration=configuration)
    assert changed.converted == 1
    assert changed.flags["inverted"] == 1


def test_labels_of_the_user_take_the_place_of_the_sets(tmp_path: Path) -> None:
    tree(tmp_path / "in", "nih14")
    own = write(tmp_path / "labels.csv", "study,Kitten", "1_000,1")
    summary = run(tmp_path, "nih14", labels=own)
    assert labels(tmp_path / "out") == {"1_000": {"Kitten": 1}}
    assert summary.labels_matched == 1


def test_a_label_with_the_name_of_a_column_is_refused(tmp_path: Path) -> None:
    header, _ = TREES["padchest"]["PADCHEST_chest_x_ray_images_labels_160K.csv"]
    tree(tmp_path / "in", "padchest", **{
        "PADCHEST_chest_x_ray_images_labels_160K.csv": (header, "a.png,0,S,P,PA,['split']")
    })  # fmt: skip
    refused(tmp_path, "padchest", "cannot be named 'split'")


def test_reports_from_elsewhere_go_with_a_set_that_has_none(tmp_path: Path) -> None:
    tree(tmp_path / "in", "brax")
    reports = write(tmp_path / "reports.csv", "study,text", "A,Findings: Clear lungs.")
    summary = run(tmp_path, "brax", reports=reports)
    assert summary.reports.accepted == 1
    assert sentences(tmp_path / "out") == {"A": ["Clear lungs."]}


def test_of_several_copies_of_an_image_the_one_that_the_table_names_is_taken(tmp_path: Path) -> None:
    tree(tmp_path / "in", "padchest")
    rasters(tmp_path / "in", "a.png", "small/0/a.jpg")
    run(tmp_path, "padchest")
    assert list(taken(tmp_path / "out")) == ["0/a.png"]
    assert left_out(tmp_path / "out") == {"image a.png": "not_in_table", "image small/0/a.jpg": "not_in_table"}


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    tree(tmp_path / "in", "nih14")
    (tmp_path / "in" / "1_000.png").unlink()
    rasters(tmp_path / "elsewhere", "1_000.png")
    (tmp_path / "in" / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "in")
    run(tmp_path, "nih14")
    assert list(taken(tmp_path / "out")) == ["images/1_000.png"]


def test_the_manifest_of_a_user_may_say_that_an_image_is_inverted(tmp_path: Path) -> None:
    pixels = (picture() >> 4).astype(np.uint8)
    rasters(tmp_path, "plain.png")
    cv2.imwrite(str(tmp_path / "dark.png"), 255 - pixels)
    manifest = write(
        tmp_path / "m.csv", "image,study,patient,inverted", "plain.png,s1,p,", "dark.png,s2,p,1", "other.png,s3,p,no"
    )
    summary = ingest(None, tmp_path / "out", manifest=manifest, configuration=SMALL)
    one, two = (np.load(path) for path in (tmp_path / "out" / "images").rglob("*.npy"))
    np.testing.assert_allclose(one.astype(int), two, atol=1)
    assert summary.flags == {"inverted": 1}
    write(tmp_path / "m.csv", "image,study,patient,inverted", "plain.png,s1,p,perhaps")
    with pytest.raises(InputError, match="row 2: `inverted` is none of 1, 0 and blank"):
        ingest(None, tmp_path / "out", manifest=manifest, configuration=SMALL)


@pytest.mark.parametrize("kind", ["RGBA", "grey with alpha", "palette"])
def test_nih_pictures_with_other_channels_are_grey(tmp_path: Path, kind: str) -> None:
    from PIL import Image

    tree(tmp_path / "in", "nih14")
    grey = Image.fromarray((picture() >> 4).astype(np.uint8))
    grey.convert({"RGBA": "RGBA", "grey with alpha": "LA", "palette": "P"}[kind]).save(tmp_path / "in" / "1_000.png")
    summary = run(tmp_path, "nih14")
    (array,) = (np.load(path) for path in (tmp_path / "out" / "images").rglob("*.npy"))
    tree(tmp_path / "plain", "nih14")
    ingest(tmp_path / "plain", tmp_path / "other", configuration=replace(SMALL, dataset="nih14"))
    (plain,) = (np.load(path) for path in (tmp_path / "other" / "images").rglob("*.npy"))
    np.testing.assert_array_equal(array, plain)
    assert "colour" not in summary.flags


def test_an_image_of_narrow_range_stays_in_it_when_it_is_inverted(tmp_path: Path) -> None:
    """12 bits in words of 16: inverted about 4095, where the MONOCHROME1 file had its white."""
    pixels = np.full((32, 32), 4095, np.uint16)
    pixels[:16] = 95
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    manifest = write(tmp_path / "m.csv", "image,study,patient,inverted", "a.png,s,p,1")
    configuration = replace(SMALL, bit_depth=16)
    ingest(None, tmp_path / "out", manifest=manifest, configuration=configuration)
    (array,) = (np.load(path) for path in (tmp_path / "out" / "images").rglob("*.npy"))
    assert (array[0, 0], array[31, 0]) == (4000, 0)


def test_a_list_vouches_for_a_blank_modality_and_for_nothing_else(tmp_path: Path) -> None:
    changes = {"blank": {}, "ct": {"Modality": "CT"}, "hand": {"BodyPartExamined": "HAND"}}
    for number, (name, elements) in enumerate(changes.items()):
        write_image(tmp_path / f"{name}.dcm", number, **({"Modality": ""} | elements))
    manifest = write(tmp_path / "m.csv", "image,study,patient", *(f"{name}.dcm,{name},p" for name in changes))
    summary = ingest(None, tmp_path / "out", manifest=manifest, configuration=SMALL)
    assert summary.files.reasons == {"other_body_part": 1, "other_modality": 1}
    assert summary.flags["modality_blank"] == 1
    with pytest.raises(InputError, match="1 no_modality"):
        ingest(tmp_path / "blank.dcm", tmp_path / "found", configuration=SMALL)


names = st.sampled_from(["", "a", "b", "c.png", "d"])


@given(
    st.lists(st.sampled_from(["a.png", "x/a.png", "b.jpg", "y/c.png", "z/d.dcm", "notes.txt", "t.csv"]), unique=True),
    st.lists(st.tuples(names, names, names, st.booleans())),
)
def test_every_file_and_every_row_is_accounted_for_once(files: list[str], rows: list[tuple[Any, ...]]) -> None:
    collection = Collection(Tree(Path("/in"), sorted(files)))
    for number, (image, study, patient, taken_out) in enumerate(rows):
        if taken_out:
            collection.leave_out("image", f"row {number}", "other_modality", image)
        else:
            collection.add(f"row {number}", image, study, patient)
    dataset = collection.finished()
    of_rows = [one for one in dataset.left_out if one.origin.startswith("data set: row")]
    assert len(dataset.rows) + len(of_rows) == len(rows)
    named = {stem(row[0]) for row in rows if row[0]}
    images = [file for file in files if file.endswith((".png", ".jpg", ".dcm"))]
    used = {row.image for row in dataset.rows} & {*files}
    unnamed = {one.origin.removeprefix("data set: ") for one in dataset.left_out if one.reason == "not_in_table"}
    assert not used & unnamed
    assert {file for file in images if stem(file) not in named} <= unnamed
    for name in named & {stem(file) for file in images}:
        assert sum(stem(file) == name for file in images if file not in unnamed) == 1


@given(st.lists(st.text("abc óñ,[]()-.'0_", max_size=20)))
def test_a_list_as_python_writes_it_is_read_back(found: list[str]) -> None:
    assert listed_labels(repr(found)) == found


@given(st.text(max_size=200))
def test_any_text_for_a_list_of_labels_is_read_or_refused(text: str) -> None:
    found = listed_labels(text)
    assert found is None or all(isinstance(name, str) for name in found)


@given(st.lists(st.lists(st.sampled_from(["Mass", "Effusion", "No Finding", "Hernia"]), unique=True), min_size=1))
def test_what_is_listed_is_present_and_all_else_is_absent(listed: list[list[str]]) -> None:
    nih = names_of("nih14")
    studies = [str(number) for number in range(len(listed))]
    table = label_lists(studies, [findings_of(one, nih) for one in listed], nih.labels)
    ours = {"Effusion": "Pleural Effusion"}
    for row, one in zip(table.iter_rows(named=True), listed, strict=True):
        for name in nih.labels:
            expected = int(name in {ours.get(label, label) for label in one}) if one else None
            assert row[name] == expected


def test_names_without_suffixes() -> None:
    assert without_suffix("1_IM-0001-4001.dcm.png") == "1_IM-0001-4001"
    assert without_suffix("a.b/c.d.PNG") == "a.b/c.d"
    assert stem("x/y.z/a.dicom") == "a"


def test_nothing_of_a_set_is_told_by_what_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Names, numbers and texts are in the private folder alone."""
    root = tmp_path / "in"
    header, row = TREES["brax"]["master_spreadsheet_update.csv"]
    planted = f"images/ZWIEBEL.png,PATIENT77,ACC-99,PA,{fourteen(Edema='KNOBLAUCH')}"
    tree(root, "brax", **{"master_spreadsheet_update.csv": (header, row, planted, planted.replace("PATIENT77", ""))})
    rasters(root, "images/STRAY_OTTILIE.png")
    run(tmp_path, "brax")
    out = contents(tmp_path / "out")
    for name in ("images", "studies", "rejects"):
        out[f"decoded {name}"] = pl.read_parquet(tmp_path / "out" / f"{name}.parquet").write_json().encode()
    terminal = capfd.readouterr()
    out["terminal"] = (terminal.out + terminal.err).encode()
    for content in out.values():
        for word in (b"ZWIEBEL", b"PATIENT77", b"ACC-99", b"KNOBLAUCH", b"OTTILIE"):
            assert word not in content
    assert read_dataset("brax", root).left_out[0] == LeftOut(
        "image", "data set: master_spreadsheet_update.csv row 4", "no_patient"
    )


def test_a_document_type_alone_stops_no_collection(tmp_path: Path) -> None:
    form = '<eCitation><uId id="CXR1"/><AbstractText>Clear.</AbstractText><parentImage id="CXR1_1_IM-1"/></eCitation>'
    write(tmp_path / "ecgen-radiology" / "1.xml", '<!DOCTYPE eCitation SYSTEM "x.dtd">' + form)
    (row,) = read_dataset("openi", tmp_path).rows
    assert (row.study, row.text) == ("CXR1", "Clear.")


def test_lists_of_a_split_may_be_utf_16_or_are_one_clear_error(tmp_path: Path) -> None:
    tree(tmp_path / "in", "nih14")
    path = tmp_path / "in" / "train_val_list.txt"
    path.write_bytes("1_000.png\n".encode("utf-16"))
    assert [row.image for row in read_dataset("nih14", tmp_path / "in").rows] == ["1_000.png"]
    path.write_bytes(b"\xff\xfe1")
    refused(tmp_path, "nih14", "train_val_list.txt")
    path.unlink()
    path.symlink_to("nowhere")
    refused(tmp_path, "nih14", "train_val_list.txt")


@pytest.mark.parametrize("image", ["../../../etc/hosts.png", "/etc/hosts.png", "images/../../hosts.png", ".."])
def test_a_table_names_no_file_outside_the_set(tmp_path: Path, image: str) -> None:
    header, row = TREES["brax"]["master_spreadsheet_update.csv"]
    bad = f"{image},P,B,PA,{fourteen(Edema='1')}"
    tree(tmp_path / "in", "brax", **{"master_spreadsheet_update.csv": (header, row, bad)})
    found = read_dataset("brax", tmp_path / "in")
    assert [row.image for row in found.rows] == ["images/a.png"]
    assert [(one.kind, one.reason) for one in found.left_out] == [("image", "bad_path")]


def test_paths_from_elsewhere_to_images_of_the_set_are_those_images(tmp_path: Path) -> None:
    header, row = TREES["covid-chestxray"]["metadata.csv"]
    tree(tmp_path / "in", "covid-chestxray", **{"metadata.csv": (header, row.replace("images", "/mnt/elsewhere"))})
    assert [row.image for row in read_dataset("covid-chestxray", tmp_path / "in").rows] == ["images/a.png"]


@pytest.mark.parametrize("name", ["view1_lateral.jpg", "view1_lateral.png", "view1_LATERAL.dcm"])
def test_a_lateral_view_is_known_by_its_name_whatever_its_suffix(tmp_path: Path, name: str) -> None:
    header, row = TREES["chexpert-plus"]["df_chexpert_plus_240401.csv"]
    write(tmp_path / "df_chexpert_plus_240401.csv", header, row.replace("view1_frontal.jpg", name))
    assert [row.view for row in read_dataset("chexpert-plus", tmp_path).rows] == ["LATERAL"]
