"""Each public data set in a tree of its own form, through `ingest`, against a table written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from made_archive import picture, write_image, write_report
from made_datasets import (
    CHEXPERT,
    SMALL,
    check_account,
    fourteen,
    label_names,
    labels,
    left_out,
    run,
    sentences,
    taken,
    write,
    write_bare_dicom,
    write_raster,
)

from preprocessing.configuration import IngestConfiguration
from preprocessing.datasets import DATASETS, read_dataset
from preprocessing.datasets.collection import REASONS
from preprocessing.datasets.labels import names_of
from preprocessing.errors import InputError
from preprocessing.ingest import ingest

OURS = {*CHEXPERT.split(",")} | {
    *("Nodule", "Mass", "Infiltration", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia")
}

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def nih14(root: Path) -> None:
    rows = [
        "00000001_000.png,Cardiomegaly|Effusion,0,1,58,M,PA,2682,2749,0.143,0.143,",
        "00000001_001.png,No Finding,1,1,58,M,AP,2894,2729,0.143,0.143,",
        "00000002_000.png,Pleural_Thickening|Hernia,0,2,81,M,PA,2500,2048,0.168,0.168,",
        "00000003_000.png,No Finding,0,3,70,F,PA,2500,2048,0.168,0.168,",
    ]
    write(root / "Data_Entry_2017_v2020.csv", NIH_HEADER, *rows)
    write(root / "train_val_list.txt", "00000001_000.png", "00000001_001.png")
    write(root / "test_list.txt", "00000002_000.png")
    write_raster(root / "images_001" / "images", "00000001_000.png", "00000001_001.png", "00000003_000.png")
    write_raster(root / "images_002" / "images", "00000002_000.png", "00000009_000.png")


def test_nih14(tmp_path: Path) -> None:
    nih14(tmp_path / "in")
    summary = run(tmp_path, "nih14")
    store = tmp_path / "out"
    found = taken(store)
    split = found["images_001/images/00000001_000.png"][3]
    assert split in ("training", "validation")
    assert found == {
        "images_001/images/00000001_000.png": ("00000001_000", "1", "PA", split),
        "images_001/images/00000001_001.png": ("00000001_001", "1", "AP", split),
        "images_002/images/00000002_000.png": ("00000002_000", "2", "PA", "test"),
    }
    absent = dict.fromkeys(label_names(store), 0)
    assert set(absent) == {*OURS} - {
        *("Enlarged Cardiomediastinum", "Lung Opacity", "Lung Lesion", "Pleural Other", "Fracture", "Support Devices")
    }
    assert labels(store) == {
        "00000001_000": absent | {"Cardiomegaly": 1, "Pleural Effusion": 1},
        "00000001_001": absent | {"No Finding": 1},
        "00000002_000": absent | {"Pleural Thickening": 1, "Hernia": 1},
    }
    assert left_out(store) == {
        "image Data_Entry_2017_v2020.csv row 5": "not_in_split_lists",
        "image images_002/images/00000009_000.png": "not_in_table",
    }
    check_account(summary)
    assert (summary.files.seen, summary.files.accepted) == (5, 3)


def mimic_tables(root: Path) -> None:
    write(
        root / "mimic-cxr-2.0.0-metadata.csv",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate",
        "aa-1,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506",
        "aa-2,10000032,50414267,CHEST (PA AND LAT),XTABLE LATERAL,3056,2544,21800506",
        "bb-1,11000764,53189527,CHEST (PORTABLE AP),,2544,3056,21800626",
        "cc-1,12000898,50771383,CHEST (PA AND LAT),LL,2544,3056,21510101",
    )
    write(
        root / "mimic-cxr-2.0.0-split.csv",
        "dicom_id,study_id,subject_id,split",
        "aa-1,50414267,10000032,train",
        "aa-2,50414267,10000032,train",
        "bb-1,53189527,11000764,validate",
        "cc-1,50771383,12000898,test",
    )
    # Another order than CheXpert's own: labels go by name.
    shuffled = "Support Devices,Edema,Airspace Opacity," + ",".join(
        name for name in CHEXPERT.split(",") if name not in ("Support Devices", "Edema", "Lung Opacity")
    )
    write(
        root / "mimic-cxr-2.0.0-chexpert.csv",
        f"subject_id,study_id,{shuffled}",
        "10000032,50414267,1.0,0.0,-1.0" + "," * 11,
        "11000764,53189527,,,,1.0" + "," * 10,
    )


def zip_tables(root: Path) -> None:
    """As PhysioNet gives them out."""
    import gzip

    for path in root.glob("*.csv"):
        (root / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


MIMIC_JPG = ("p10/p10000032/s50414267/aa-1", "p10/p10000032/s50414267/aa-2", "p11/p11000764/s53189527/bb-1")


def mimic_reports(root: Path) -> None:
    write_report(root / "files" / "p10" / "p10000032" / "s50414267.txt", "FINAL REPORT\n IMPRESSION: Clear lungs.\n")
    write_report(root / "files" / "p19" / "p19999999" / "s59999999.txt", "IMPRESSION: Of nobody here.\n")


def test_mimic_cxr_jpg(tmp_path: Path) -> None:
    root = tmp_path / "in"
    mimic_tables(root)
    zip_tables(root)
    write_raster(root / "files", *(f"{name}.jpg" for name in MIMIC_JPG))
    mimic_reports(tmp_path / "reports")
    summary = run(tmp_path, "mimic-cxr-jpg", reports=tmp_path / "reports")
    store = tmp_path / "out"
    assert taken(store) == {
        "files/p10/p10000032/s50414267/aa-1.jpg": ("50414267", "10000032", "PA", "training"),
        "files/p10/p10000032/s50414267/aa-2.jpg": ("50414267", "10000032", "LATERAL", "training"),
        "files/p11/p11000764/s53189527/bb-1.jpg": ("53189527", "11000764", "UNKNOWN", "validation"),
    }
    assert label_names(store) == CHEXPERT.split(",")
    assert labels(store) == {
        "50414267": {"Support Devices": 1, "Edema": 0, "Lung Opacity": -1},
        "53189527": {"No Finding": 1},
    }
    assert sentences(store) == {"50414267": ["Clear lungs."], "53189527": []}
    rejects = left_out(store)
    assert rejects.pop("image files/p12/p12000898/s50771383/cc-1.jpg") == "missing_file"
    assert rejects == {
        "report manifest row 3: files/p11/p11000764/s53189527.txt": "missing_file",
        "report manifest row 4: files/p12/p12000898/s50771383.txt": "missing_file",
        "report files/p19/p19999999/s59999999.txt": "report_without_image",
    }
    check_account(summary)
    assert (summary.files.seen, summary.reports.seen, summary.reports.accepted) == (4, 4, 1)


def test_negbio_labels_serve_where_there_are_none_of_chexpert(tmp_path: Path) -> None:
    root = tmp_path / "in"
    mimic_tables(root)
    (root / "mimic-cxr-2.0.0-chexpert.csv").rename(root / "mimic-cxr-2.0.0-negbio.csv")
    write_raster(root / "files", f"{MIMIC_JPG[2]}.jpg")
    run(tmp_path, "mimic-cxr-jpg")
    assert labels(tmp_path / "out") == {"53189527": {"No Finding": 1}}


def test_mimic_cxr_without_any_table(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for number, name in enumerate(MIMIC_JPG):
        write_image(root / "files" / f"{name}.dcm", number, PatientID="of the header", ViewPosition="AP")
    write_image(root / "files" / "stray.dcm", 9)
    mimic_reports(root)
    summary = run(tmp_path, "mimic-cxr")
    store = tmp_path / "out"
    found = taken(store)
    assert {path: row[:3] for path, row in found.items()} == {
        "files/p10/p10000032/s50414267/aa-1.dcm": ("50414267", "10000032", "AP"),
        "files/p10/p10000032/s50414267/aa-2.dcm": ("50414267", "10000032", "AP"),
        "files/p11/p11000764/s53189527/bb-1.dcm": ("53189527", "11000764", "AP"),
    }
    assert read_dataset("mimic-cxr", root).labels is None
    assert sentences(store)["50414267"] == ["Clear lungs."]
    assert left_out(store) == {
        "image files/stray.dcm": "bad_path",
        "report files/p19/p19999999/s59999999.txt": "report_without_image",
        "report manifest row 3: files/p11/p11000764/s53189527.txt": "missing_file",
    }
    check_account(summary)


def test_mimic_cxr_by_its_record_list(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_image(root / "files" / f"{MIMIC_JPG[0]}.dcm", 1, PhotometricInterpretation="MONOCHROME1")
    rows = [f"10000032,50414267,{name[-4:]},files/{name}.dcm" for name in MIMIC_JPG[:2]]
    write(root / "cxr-record-list.csv", "subject_id,study_id,dicom_id,path", *rows)
    zip_tables(root)
    run(tmp_path, "mimic-cxr")
    assert list(taken(tmp_path / "out")) == [f"files/{MIMIC_JPG[0]}.dcm"]
    assert left_out(tmp_path / "out") == {f"image files/{MIMIC_JPG[1]}.dcm": "missing_file"}
    (array,) = [np.load(path) for path in (tmp_path / "out" / "images").rglob("*.npy")]
    assert array[0, 4] < 60  # the mark is the brightest of the stored values, which MONOCHROME1 shows dark


@pytest.mark.parametrize("folder", ["CheXpert-v1.0", "CheXpert-v1.0-small", "some/other"])
def test_chexpert(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "in"
    header, one = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}", f"{folder}/train/patient00001"
    write(
        root / "train.csv",
        header,
        f"{one}/study1/view1_frontal.jpg,F,68,Frontal,AP,{fourteen(Edema='1.0', Pneumonia='-1.0')}",
        f"{one}/study1/view2_lateral.jpg,F,68,Lateral,,{fourteen(Edema='1.0', Pneumonia='-1.0')}",
        f"{one}/study2/view1_frontal.jpg,F,68,Frontal,PA,{fourteen(NoFinding='1.0', Edema='0.0')}",
        f"{one}/study3/view1_frontal.jpg,F,68,Frontal,,{fourteen(Edema='2.0', Fracture='1.0')}",
    )
    write(
        root / "valid.csv",
        header,
        f"{folder}/valid/patient64541/study1/view1_frontal.jpg,F,73,Frontal,AP,{fourteen(Cardiomegaly='1.0')}",
    )
    write(
        root / "test.csv",
        f"Path,{CHEXPERT}",
        f"test/patient64741/study1/view1_lateral.jpg,{fourteen(Edema='1')}",
        f"{folder}/patient64742/view1_frontal.jpg,{fourteen(Edema='1')}",
    )
    names = ("study1/view1_frontal.jpg", "study1/view2_lateral.jpg", "study2/view1_frontal.jpg")
    write_raster(root / "train" / "patient00001", *names, "study3/view1_frontal.jpg")
    write_raster(root, "valid/patient64541/study1/view1_frontal.jpg", "test/patient64741/study1/view1_lateral.jpg")
    summary = run(tmp_path, "chexpert")
    store = tmp_path / "out"
    assert taken(store) == {
        "train/patient00001/study1/view1_frontal.jpg": ("patient00001/study1", "patient00001", "AP", "training"),
        "train/patient00001/study1/view2_lateral.jpg": ("patient00001/study1", "patient00001", "LATERAL", "training"),
        "train/patient00001/study2/view1_frontal.jpg": ("patient00001/study2", "patient00001", "PA", "training"),
        "train/patient00001/study3/view1_frontal.jpg": ("patient00001/study3", "patient00001", "UNKNOWN", "training"),
        "valid/patient64541/study1/view1_frontal.jpg": ("patient64541/study1", "patient64541", "AP", "validation"),
        "test/patient64741/study1/view1_lateral.jpg": ("patient64741/study1", "patient64741", "LATERAL", "test"),
    }
    assert labels(store) == {
        "patient00001/study1": {"Edema": 1, "Pneumonia": -1},
        "patient00001/study2": {"No Finding": 1, "Edema": 0},
        "patient00001/study3": {"Fracture": 1},
        "patient64541/study1": {"Cardiomegaly": 1},
        "patient64741/study1": {"Edema": 1},
    }
    assert left_out(store) == {"image test.csv row 3": "bad_path", "label train.csv row 5, Edema": "label_value"}
    check_account(summary)


def test_chexpert_as_it_is_given_out_in_batches(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(
        root / "train.csv",
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}",
        f"CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg,F,68,Frontal,AP,{fourteen()}",
    )
    write_raster(root / "CheXpert-v1.0 batch 2 (train 1)", "patient00001/study1/view1_frontal.jpg")
    run(tmp_path, "chexpert")
    assert list(taken(tmp_path / "out")) == [
        "CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg",
    ]


def test_chexpert_plus(tmp_path: Path) -> None:
    root = tmp_path / "in"
    columns = (
        "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
        "section_narrative,section_clinical_history,section_findings,section_impression,split"
    )
    first = 'patient00001,1,"NARRATIVE: all of it",n,Cough.,Clear lungs.,No disease.,train'
    write(
        root / "df_chexpert_plus_240401.csv",
        columns,
        f"train/patient00001/study1/view1_frontal.jpg,train/patient00001/study1/view1_frontal.dcm,Frontal,AP,{first}",
        f"train/patient00001/study1/view2_lateral.jpg,train/patient00001/study1/view2_lateral.dcm,Lateral,,{first}",
        'train/patient00002/study4/view1_frontal.jpg,x,Frontal,PA,patient00002,2,"IMPRESSION: Edema.",,,,,valid',
        "valid/patient64541/study1/view1_frontal.jpg,x,Frontal,AP,patient64541,1,,,,,,valid",
    )
    write_raster(
        root / "PNG", "train/patient00001/study1/view1_frontal.png", "train/patient00002/study4/view1_frontal.png"
    )
    write_raster(root / "PNG", "valid/patient64541/study1/view1_frontal.png")
    write_image(root / "DICOM" / "train" / "patient00001" / "study1" / "view1_frontal.dcm", 1)
    write_image(root / "DICOM" / "train" / "patient00001" / "study1" / "view2_lateral.dcm", 2)
    summary = run(tmp_path, "chexpert-plus")
    store = tmp_path / "out"
    assert taken(store) == {
        "PNG/train/patient00001/study1/view1_frontal.png": ("patient00001/study1", "patient00001", "AP", "training"),
        "DICOM/train/patient00001/study1/view2_lateral.dcm": (
            *("patient00001/study1", "patient00001", "LATERAL", "training"),
        ),
        "PNG/train/patient00002/study4/view1_frontal.png": ("patient00002/study4", "patient00002", "PA", "validation"),
        "PNG/valid/patient64541/study1/view1_frontal.png": ("patient64541/study1", "patient64541", "AP", "validation"),
    }
    assert sentences(store) == {
        "patient00001/study1": ["No disease."],
        "patient00002/study4": ["Edema."],
        "patient64541/study1": [],
    }
    assert left_out(store) == {"image DICOM/train/patient00001/study1/view1_frontal.dcm": "not_in_table"}
    sections = pl.read_parquet(store / "studies.parquet")["sections"].to_list()
    assert ["history", "findings", "impression"] in sections
    check_account(summary)


PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,Projection,MethodProjection,Modality_DICOM,"
    "PhotometricInterpretation_DICOM,Report,Labels"
)


def test_padchest(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(
        root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
        PADCHEST,
        "0,a.png,0,20140915,S1,P1,PA,m,CR,MONOCHROME2,sin hallazgos patologicos .,['normal']",
        "1,b.png,0,20140915,S1,P1,L,m,CR,MONOCHROME2,sin hallazgos patologicos .,['normal']",
        "2,c.png,1,2014,S2,P2,AP_horizontal,m,CR,MONOCHROME1,derrame .,\"['pleural effusion', 'rib fracture ', '']\"",
        "3,d.png,1,20140915,S3,P2,COSTAL,m,DX,MONOCHROME2,sin cambios .,\"['unchanged', 'cardiomegaly']\"",
        "4,e.png,1,20140915,S4,P2,EXCLUDE,m,DX,MONOCHROME2,otro .,['normal']",
        "5,f.png,1,20140915,S5,P3,PA,m,DX,MONOCHROME2,,",
    )
    for name in ("0/a.png", "0/b.png", "1/d.png", "1/e.png", "f.png"):
        write_raster(root, name, dtype=np.uint16)
    pixels = picture(3) << 4
    cv2.imwrite(str(root / "1" / "c.png"), np.uint16(65535) - pixels)
    cv2.imwrite(str(root / "1" / "same.png"), pixels)
    configuration = replace(SMALL, dataset="padchest", bit_depth=16)
    summary = ingest(root, tmp_path / "out", configuration=configuration)
    store = tmp_path / "out"
    found = taken(store)
    assert {path: row[:3] for path, row in found.items()} == {
        "0/a.png": ("S1", "P1", "PA"),
        "0/b.png": ("S1", "P1", "LATERAL"),
        "1/c.png": ("S2", "P2", "AP"),
        "1/d.png": ("S3", "P2", "UNKNOWN"),
        "f.png": ("S5", "P3", "PA"),
    }
    assert label_names(store) == ["Cardiomegaly", "Fracture", "No Finding", "Pleural Effusion", "rib fracture"]
    absent = dict.fromkeys(label_names(store), 0)
    assert labels(store) == {
        "S1": absent | {"No Finding": 1},
        "S2": absent | {"Pleural Effusion": 1, "Fracture": 1, "rib fracture": 1},
        "S3": {"Cardiomegaly": 1},
        "S5": {},
    }
    assert sentences(store)["S1"] == ["sin hallazgos patologicos ."]
    assert left_out(store) == {
        "image PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv row 6": "excluded_by_the_set",
        "image 1/same.png": "not_in_table",
    }
    images = pl.read_parquet(store / "images.parquet")
    (array,) = [np.load(store / row) for row in images.filter(pl.col("flags").list.contains("inverted"))["path"]]
    plain = tmp_path / "plain"
    write(plain / "manifest.csv", "image,study,patient", f"{root / '1' / 'same.png'},s,p")
    ingest(
        None,
        tmp_path / "other",
        manifest=plain / "manifest.csv",
        configuration=replace(configuration, dataset="folder"),
    )
    (other,) = [np.load(path) for path in (tmp_path / "other" / "images").rglob("*.npy")]
    np.testing.assert_allclose(array, other, atol=1)
    check_account(summary)


VINDR = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,"
    "Tuberculosis"
)


def vindr(*present: str, last: str = "0,0") -> str:
    return ",".join("1" if name in present else "0" for name in VINDR.split(",")) + f",{last}"


def test_vindr_cxr(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(
        root / "annotations" / "image_labels_train.csv",
        f"image_id,rad_id,{VINDR},Other diseases,No finding",
        f"aaa,R1,{vindr('Cardiomegaly', 'Pleural effusion')}",
        f"bbb,R1,{vindr(last='0,1')}",
        f"aaa,R2,{vindr('Cardiomegaly')}",
        f"aaa,R3,{vindr('Pulmonary fibrosis', last='1,0')}",
        f"bbb,R2,{vindr('Atelectasis', last='0,0')}",
        f"ccc,R2,{vindr(last='0,1')}",
    )
    write(
        root / "annotations" / "image_labels_test.csv",
        f"image_id,{VINDR},Other disease,No finding",
        f"ddd,{vindr('Pleural thickening', last='1,0')}",
    )
    for number, name in enumerate(("train/aaa", "train/bbb", "test/ddd", "test/eee")):
        write_bare_dicom(root / f"{name}.dicom", number)
    summary = run(tmp_path, "vindr-cxr")
    store = tmp_path / "out"
    found = taken(store)
    parts = [found[f"train/{name}.dicom"][3] for name in ("aaa", "bbb")]
    assert set(parts) <= {"training", "validation"}
    assert found == {
        "train/aaa.dicom": ("aaa", "aaa", "PA", parts[0]),
        "train/bbb.dicom": ("bbb", "bbb", "PA", parts[1]),
        "test/ddd.dicom": ("ddd", "ddd", "PA", "test"),
    }
    none = dict.fromkeys(label_names(store), 0)
    assert len(none) == 28
    assert {"Pleural Effusion", "Pleural Thickening", "Fibrosis", "Other disease", "No Finding"} <= set(none)
    assert labels(store) == {
        "aaa": none | {"Cardiomegaly": 1},
        "bbb": {name: value for name, value in none.items() if name not in ("Atelectasis", "No Finding")},
        "ddd": none | {"Pleural Thickening": 1, "Other disease": 1},
    }
    assert left_out(store) == {
        "image train/ccc.dicom": "missing_file",
        "image test/eee.dicom": "not_in_table",
    }
    assert summary.flags["modality_blank"] == 3
    check_account(summary)


def test_brax(tmp_path: Path) -> None:
    root = tmp_path / "in"
    folder = "images/id_1/Study_1.2/Series_1.3"
    write(
        root / "master_spreadsheet_update.csv",
        f",DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,{CHEXPERT},ViewPosition,Rows",
        f"0,x,{folder}/image-1.png,id_1,M,45,A1,20100101,{fourteen(Edema='-1', Fracture='0')},PA,1",
        f"1,x,{folder}/image-2.png,id_1,M,45,A1,20100101,{fourteen(Edema='-1', Fracture='1')},RL,1",
        f"2,x,{folder}/image-3.png,,M,45,A2,20100101,{fourteen(Edema='1')},LLD,1",
        f"3,x,{folder}/image-4.png,id_2,M,45,A3,20100101,{fourteen(NoFinding='1.0')},LLD,1",
    )
    write_raster(root / folder, "image-1.png", "image-2.png", "image-3.png", "image-4.png")
    summary = run(tmp_path, "brax")
    store = tmp_path / "out"
    found = taken(store)
    assert {path: row[:3] for path, row in found.items()} == {
        f"{folder}/image-1.png": ("A1", "id_1", "PA"),
        f"{folder}/image-2.png": ("A1", "id_1", "LATERAL"),
        f"{folder}/image-4.png": ("A3", "id_2", "UNKNOWN"),
    }
    assert labels(store) == {"A1": {"Edema": -1}, "A3": {"No Finding": 1}}
    assert left_out(store) == {
        "image master_spreadsheet_update.csv row 4": "no_patient",
        "label study A1, Fracture": "label_disagreement",
    }
    check_account(summary)


def test_covid_chestxray(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(
        root / "metadata.csv",
        "patientid,offset,sex,age,finding,view,modality,date,folder,filename,license,clinical_notes",
        "2,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,2020,images,one.jpg,CC,Opacity on the left.",
        "2,3,M,65,COVID-19,AP Supine,X-ray,2020,images,two.png,CC,",
        "4,0,F,65,No Finding,L,X-ray,2020,images,three.png,CC,",
        "5,0,F,65,todo,AP semi erect,X-ray,2020,images,four.png,CC,",
        "6,0,F,65,Tuberculosis,Axial,CT,2020,images,ct.png,CC,",
        "6,0,F,65,Tuberculosis,,CT,2020,volumes,ct.nii.gz,CC,",
        "6,0,F,65,Tuberculosis,Coronal,X-ray,2020,images,slice.png,CC,",
    )
    write_raster(root / "images", "one.jpg", "two.png", "three.png", "four.png", "ct.png", "slice.png", "kitten.jpeg")
    summary = run(tmp_path, "covid-chestxray")
    store = tmp_path / "out"
    assert {path: row[:3] for path, row in taken(store).items()} == {
        "images/one.jpg": ("one", "2", "PA"),
        "images/two.png": ("two", "2", "AP"),
        "images/three.png": ("three", "4", "LATERAL"),
        "images/four.png": ("four", "5", "UNKNOWN"),
    } | {"images/four.png": ("four", "5", "AP")}
    absent = {"COVID-19": 0, "No Finding": 0, "Pneumonia": 0, "Viral": 0}
    assert labels(store) == {
        "one": absent | {"COVID-19": 1, "Viral": 1, "Pneumonia": 1},
        "two": absent | {"COVID-19": 1, "Pneumonia": 1},
        "three": absent | {"No Finding": 1},
        "four": {},
    }
    assert sentences(store)["one"] == ["Opacity on the left."]
    assert left_out(store) == {
        "image metadata.csv row 6": "other_modality",
        "image metadata.csv row 7": "other_modality",
        "image metadata.csv row 8": "other_modality",
        "image images/kitten.jpeg": "not_in_table",
    }
    check_account(summary)


def openi_xml(number: int, *images: str, findings: str = "Clear lungs.") -> list[str]:
    return [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>',
        '<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION"/>',
        f'<AbstractText Label="FINDINGS">{findings}</AbstractText>',
        '<AbstractText Label="IMPRESSION">No acute disease.</AbstractText>',
        "</Abstract></Article></MedlineCitation><MeSH><major>normal</major></MeSH>",
        *(f'<parentImage id="{image}"><caption>Chest</caption></parentImage>' for image in images),
        "</eCitation>",
    ]


def test_openi_as_xml(tmp_path: Path) -> None:
    root = tmp_path / "in"
    folder = root / "ecgen-radiology"
    write(folder / "1.xml", *openi_xml(1, "CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"))
    write(folder / "100.xml", *openi_xml(100, "CXR100_IM-0002-1001", "CXR100_IM-0002-2001"))
    write(folder / "7.xml", *openi_xml(7))
    write(folder / "8.xml", "<eCitation><uId id='CXR8'>")
    bomb = '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><eCitation><uId id="CXR9"/>&c;</eCitation>'
    write(folder / "9.xml", bomb)
    write_raster(root / "png", "CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-4001.png", "CXR5_IM-0001-4001.png")
    write_image(root / "dcm" / "100" / "100_IM-0002-1001.dcm", 1, PatientID="100", ViewPosition="PA")
    summary = run(tmp_path, "openi")
    store = tmp_path / "out"
    assert {path: row[:3] for path, row in taken(store).items()} == {
        "png/CXR1_1_IM-0001-3001.png": ("CXR1", "CXR1", "UNKNOWN"),
        "png/CXR1_1_IM-0001-4001.png": ("CXR1", "CXR1", "UNKNOWN"),
        "dcm/100/100_IM-0002-1001.dcm": ("CXR100", "CXR100", "PA"),
    }
    assert sentences(store) == {"CXR1": ["No acute disease."], "CXR100": ["No acute disease."]}
    assert left_out(store) == {
        "image CXR100_IM-0002-2001.png": "missing_file",
        "image png/CXR5_IM-0001-4001.png": "not_in_table",
        "report ecgen-radiology/7.xml": "report_without_image",
        "report ecgen-radiology/8.xml": "malformed_xml",
        "report ecgen-radiology/9.xml": "xml_entities",
    }
    check_account(summary)
    assert summary.reports.seen == 5


def test_openi_as_on_kaggle(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(
        root / "indiana_reports.csv",
        "uid,MeSH,Problems,image,indication,comparison,findings,impression",
        "1,normal,normal,Xray Chest PA and Lateral,Positive TB test,None.,Clear lungs.,Normal chest x-XXXX.",
        "2,normal,normal,Chest,,,,",
        '3,normal,normal,Chest,,,"Small effusion, left.",',
        "4,normal,normal,Chest,,,Of no image.,",
        "5,normal,normal,Chest,,,First text.,",
        "5,normal,normal,Chest,,,Second text.,",
    )
    write(
        root / "indiana_projections.csv",
        "uid,filename,projection",
        "1,1_IM-0001-4001.dcm.png,Frontal",
        "1,1_IM-0001-3001.dcm.png,Lateral",
        "2,2_IM-0652-1001.dcm.png,Frontal",
        "3,3_IM-1384-1001.dcm.png,Frontal",
        "5,5_IM-2117-1003002.dcm.png,Frontal",
    )
    names = ("1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001", "3_IM-1384-1001", "5_IM-2117-1003002")
    write_raster(root / "images" / "images_normalized", *(f"{name}.dcm.png" for name in names))
    summary = run(tmp_path, "openi")
    store = tmp_path / "out"
    folder = "images/images_normalized"
    assert {path: row[:3] for path, row in taken(store).items()} == {
        f"{folder}/1_IM-0001-4001.dcm.png": ("1", "1", "UNKNOWN"),
        f"{folder}/1_IM-0001-3001.dcm.png": ("1", "1", "LATERAL"),
        f"{folder}/2_IM-0652-1001.dcm.png": ("2", "2", "UNKNOWN"),
        f"{folder}/3_IM-1384-1001.dcm.png": ("3", "3", "UNKNOWN"),
        f"{folder}/5_IM-2117-1003002.dcm.png": ("5", "5", "UNKNOWN"),
    }
    assert sentences(store) == {"1": ["Normal chest x-XXXX."], "2": [], "3": ["Small effusion, left."], "5": []}
    assert left_out(store) == {
        "report indiana_reports.csv row 3": "empty_report",
        "report indiana_reports.csv row 5": "report_without_image",
        "report indiana_reports.csv row 6": "several_reports",
        "report indiana_reports.csv row 7": "several_reports",
    }
    check_account(summary)


def test_folder_is_what_it_was_before(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.dcm", 1)
    write_report(tmp_path / "reports" / "A1.txt")
    arguments = {"reports": tmp_path / "reports", "configuration": replace(SMALL, dataset="folder")}
    summary = ingest(tmp_path / "in", tmp_path / "out", **arguments)
    assert (summary.files.accepted, summary.reports.accepted) == (1, 1)
    stamp = json.loads((tmp_path / "out" / "store.json").read_text(encoding="utf-8"))
    assert stamp["configuration"]["dataset"] == "folder"
    assert SMALL.dataset == "folder"


def test_the_eleven_names_are_known() -> None:
    ours = {
        "openi",
        "mimic-cxr",
        "mimic-cxr-jpg",
        "chexpert",
        "chexpert-plus",
        "nih14",
        "padchest",
        "vindr-cxr",
        "brax",
    }
    assert {*DATASETS} == ours | {"covid-chestxray", "folder"}
    with pytest.raises(InputError, match=r"choose one of folder, brax, chexpert, .*vindr-cxr"):
        IngestConfiguration(dataset="mimic")
    with pytest.raises(InputError, match=r"'mimic'.* choose one of folder, brax"):
        read_dataset("mimic", Path())


def test_names_that_sets_are_mapped_to_are_ours_or_the_sets_own() -> None:
    for name in ("chexpert", "nih14", "vindr-cxr", "padchest", "covid-chestxray"):
        names = names_of(name)
        assert {*names.same.values()} - OURS <= {"Other disease"}
        assert {kind for kinds in names.kinds_of.values() for kind in kinds} <= OURS
        assert not {*names.same} & {*names.labels}, "a name that is both ours and theirs"
    assert {*names_of("chexpert").labels} == {*CHEXPERT.split(",")}


def test_reasons_are_codes_and_their_details_are_sentences() -> None:
    for reason, detail in REASONS.items():
        assert reason.replace("_", "").isalnum()
        assert reason == reason.lower()
        assert len(detail.split()) > 2
