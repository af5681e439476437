"""An archive whose every corner names a patient: phantoms with identities planted into headers, names and reports."""

import csv
import io
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate

from preprocessing.phantoms import DIFFICULTIES, write_phantoms

STUDIES, SIZE = 28, 64
ROOT = "1.2.826.0.9977.31415926"  # of the made UIDs
BIRTH, EXAMINED = "19470311", "20210417"

PLANTED = {
    "patient": ("ZWIEBELKRAUT", "OTTILIEGUNDE", "MRN-77412Q", "OTH-90210X", "NACHBARIN"),
    "study": ("ACC551ZZ", ROOT, "113355.7744", "HUSTENTHORAX"),
    "staff": ("KNOBLAUCH", "SCHNITTLAUCH", "BÄRLAUCHER"),
    "place": ("PANKRATIUS", "ROENTGENRAUM7", "SN-4711-0815", "PRIVATKREATOR", "PRIVATWERT"),
    "dates": (BIRTH, "1947-03-11", EXAMINED, "2021-04-17"),
    "names": ("geheimordner", "geheimdatei", "geheimtabelle"),
}
"""What is looked for; each is long or odd enough to stand nowhere by chance."""

HEADER = f"""PANKRATIUS KLINIKUM, ROENTGENRAUM7
PATIENT: ZWIEBELKRAUT, OTTILIEGUNDE  MRN: MRN-77412Q  DOB: 1947-03-11
ACC551ZZ {EXAMINED}

HISTORY: Frau ZWIEBELKRAUT, born {BIRTH}, seen by Dr. KNOBLAUCH.
INDICATION: HUSTENTHORAX of OTTILIEGUNDE, asked for by Prof. BÄRLAUCHER.
COMPARISON: Radiograph of 2021-04-17, ACC551ZZ.
TECHNIQUE: Taken by SCHNITTLAUCH in ROENTGENRAUM7.
"""

FOOTERS = (
    "Electronically signed by Dr. KNOBLAUCH on 2021-04-17",
    "Dictated by: BÄRLAUCHER\nTranscribed by: SCHNITTLAUCH, 2021-04-17",
    "SIGNATURE: KNOBLAUCH, M.D.",
    "NOTIFICATION: Dr. BÄRLAUCHER was called about ZWIEBELKRAUT.\n\nReported by KNOBLAUCH",
    "ADDENDUM: For OTTILIEGUNDE ZWIEBELKRAUT, not NACHBARIN.\nApproved by: KNOBLAUCH",
)

KEY = "28" * 32
"""Of the pseudonyms: one under which all three splits have studies."""


@dataclass(frozen=True)
class Archive:
    """Where the planted archive lies, in both of its forms, and what belongs to it."""

    folder: Path
    archive: Path
    reports: Path
    report_table: Path
    labels: Path
    key: Path


def plant_archive(folder: Path) -> Archive:
    """Make the archive: good studies, files that cannot be used for every kind of reason, reports, labels, a key."""
    phantoms = folder / "phantoms"
    write_phantoms(phantoms, studies=STUDIES, size=SIZE, seed=0, difficulty=DIFFICULTIES["easy"])
    made = Archive(
        folder / "geheimordner_source",
        folder / "geheimordner.zip",
        folder / "geheimordner_reports",
        folder / "geheimtabelle_reports.csv",
        folder / "geheimtabelle_labels.csv",
        folder / "key",
    )
    made.key.touch(mode=0o600)
    made.key.write_text(KEY, encoding="ascii")
    rows = _rows(phantoms / "truth" / "studies.csv")
    columns = ("image", "lateral")
    for number, image in [(n, row[column]) for n, row in enumerate(rows) for column in columns if row[column]]:
        (path,) = (phantoms / "dicom").rglob(f"{image}.dcm")
        _write(made.folder / f"ZWIEBELKRAUT_{number}" / f"geheimdatei_{image[-9:]}.dcm", _planted(path, rows, number))
    with warnings.catch_warnings(action="ignore"):  # of values that are wrong on purpose
        _write_bad_files(made.folder)
    _write_archive(made)
    _write_reports(made, phantoms / "reports", rows)
    _write_labels(made.labels, phantoms / "labels.csv")
    return made


def patient_id(patient: int) -> str:
    return f"MRN-77412Q-{patient:03}"


def accession_number(study: int) -> str:
    return f"ACC551ZZ-{study:03}"


def study_uid(study: int) -> str:
    return f"{ROOT}.1.{study}"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _planted(path: Path, rows: list[dict[str, str]], study: int) -> Dataset:
    """A phantom with the header of a hospital."""
    dataset = pydicom.dcmread(path)
    patients = sorted({row["patient"] for row in rows})
    image = f"{ROOT}.3.{path.stem.replace('.', '')[-20:].lstrip('0')}"
    dataset.file_meta.MediaStorageSOPInstanceUID = image
    values = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPInstanceUID": image,
        "StudyInstanceUID": study_uid(study),
        "SeriesInstanceUID": f"{ROOT}.2.{study}",
        "FrameOfReferenceUID": f"{ROOT}.4.{study}",
        "PatientID": patient_id(patients.index(rows[study]["patient"])),
        "AccessionNumber": accession_number(study),
        "PatientName": "ZWIEBELKRAUT^OTTILIEGUNDE",
        "OtherPatientIDs": "OTH-90210X",
        "PatientBirthDate": BIRTH,
        "StudyDate": EXAMINED,
        "AcquisitionDate": EXAMINED,
        "StudyTime": "113355.7744",
        "InstitutionName": "PANKRATIUS KLINIKUM",
        "InstitutionAddress": "PANKRATIUSGASSE 1",
        "ReferringPhysicianName": "KNOBLAUCH^K",
        "PerformingPhysicianName": "BÄRLAUCHER^B",
        "OperatorsName": "SCHNITTLAUCH^S",
        "StationName": "ROENTGENRAUM7",
        "DeviceSerialNumber": "SN-4711-0815",
        "StudyDescription": "HUSTENTHORAX ZWIEBELKRAUT",
        "SeriesDescription": "PA ZWIEBELKRAUT",
        "ProtocolName": "ROENTGENRAUM7 PA",
        "ImageComments": f"NACHBARIN of KNOBLAUCH, {BIRTH}",
        "PatientComments": "NACHBARIN",
        "WindowCenterWidthExplanation": "ZWIEBELKRAUT" if "WindowCenter" in dataset else None,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    block = dataset.private_block(0x0099, "PRIVATKREATOR", create=True)
    block.add_new(0x02, "LO", "PRIVATWERT MRN-77412Q")
    return dataset


def _write(path: Path, content: Dataset | bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Dataset):
        buffer = io.BytesIO()
        content.save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue()
    path.write_bytes(content)
    return content


def _write_bad_files(folder: Path) -> None:
    """Files that are left out, each of which could be quoted when that is said."""
    good = sorted(folder.rglob("*.dcm"))
    bad = folder / "geheimordner_PANKRATIUS"
    for number, path in enumerate(good[:8]):
        whole = path.read_bytes()
        _write(bad / f"geheimdatei_cut_{number}.dcm", whole[: -len(whole) // 4])
    _write(bad / "geheimdatei_header.dcm", good[0].read_bytes()[:700])
    _write(bad / "geheimdatei_same.dcm", good[1].read_bytes())
    _write(bad / "geheimdatei_text.dcm", b"ZWIEBELKRAUT OTTILIEGUNDE MRN-77412Q")
    _write(bad / "geheimdatei_empty.dcm", b"")
    _write(bad / "geheimdatei.zip", b"PK\3\4 ZWIEBELKRAUT" + bytes(100))
    (bad / "geheimdatei_gone.dcm").symlink_to("MRN-77412Q.dcm")
    (bad / "geheimdatei_loop").symlink_to(bad)
    for name, dataset in _bad_datasets(next(path for path in good if _is_plain(path))):
        _write(bad / f"geheimdatei_{name}.dcm", dataset)
    jpeg = next(path for path in good if b"1.2.840.10008.1.2.4.70" in path.read_bytes()[:600])
    broken = pydicom.dcmread(jpeg)
    broken.SOPInstanceUID = f"{ROOT}.5.99"
    comment = b"\xff\xd8\xff\xfe\x00\x20ZWIEBELKRAUT MRN-77412Q" + bytes(40)
    broken.PixelData = encapsulate([comment])
    _write(bad / "geheimdatei_jpeg.dcm", broken)


def _is_plain(path: Path) -> bool:
    meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
    return bool(meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian)


def _bad_datasets(path: Path) -> Iterator[tuple[str, Dataset]]:
    changes: dict[str, dict[str, object]] = {
        "clash": {},  # the image of another file with other bytes
        "ct": {"Modality": "CT"},
        "modality": {"Modality": "KNOBLAUCH"},
        "body": {"BodyPartExamined": "OTTILIEGUNDE"},
        "burned": {"BurnedInAnnotation": "YES"},
        "raw": {"PresentationIntentType": "FOR PROCESSING"},
        "photometric": {"PhotometricInterpretation": "ZWIEBELKRAUT"},
        "function": {"VOILUTFunction": "ZWIEBELKRAUT"},
        "view": {"ViewPosition": "ZWIEBELKRAUT", "PatientOrientation": ["KNOBLAUCH", "SCHNITTLAUCH"]},
        "charset": {"SpecificCharacterSet": "BÄRLAUCHER"},
        "uid": {"StudyInstanceUID": "MRN-77412Q..ZWIEBELKRAUT"},
        "two_patients": {"PatientID": "MRN-77412Q-OTHER", "StudyInstanceUID": f"{ROOT}.1.1"},
        "patientless": {"PatientID": "", "StudyInstanceUID": f"{ROOT}.1.2"},
        "date": {"StudyDate": "ZWIEBELKRAUT", "PatientBirthDate": "KNOBLAUCH"},
        "rows": {"Rows": 0},
        "bits": {"BitsStored": 40},
    }
    for number, (name, elements) in enumerate(changes.items()):
        dataset = pydicom.dcmread(path)
        if name != "clash":
            dataset.SOPInstanceUID = f"{ROOT}.5.{number}"
            dataset.StudyInstanceUID = f"{ROOT}.6.{number}"
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.InstanceNumber = str(number + 7)
        yield name, dataset
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = f"{ROOT}.5.90"
    for tag in ("WindowCenter", "WindowWidth", "ImagerPixelSpacing"):
        dataset.pop(tag, None)
        dataset.add_new(tag, "LO", "ZWIEBELKRAUT")
    yield "window", dataset
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID, dataset.file_meta.TransferSyntaxUID = f"{ROOT}.5.91", f"{ROOT}.7"
    dataset._read_little, dataset._read_implicit = True, False
    yield "syntax", dataset


def _write_archive(made: Archive) -> None:
    """The folder as a ZIP archive, with a member that climbs out of it and an archive inside."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("geheimdatei_inside.dcm", b"ZWIEBELKRAUT")
    with zipfile.ZipFile(made.archive, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(made.folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, path.relative_to(made.folder.parent))
        archive.writestr("../geheimordner_outside/ZWIEBELKRAUT.dcm", b"OTTILIEGUNDE")
        archive.writestr("geheimdatei_inner.zip", inner.getvalue())
        archive.comment = b"PANKRATIUS KLINIKUM"


def _write_reports(made: Archive, phantoms: Path, rows: list[dict[str, str]]) -> None:
    """The reports as a folder and as a table; more of them than there are studies."""
    texts = []
    for number, row in enumerate(rows):
        text = (phantoms / row["report"]).read_text(encoding="utf-8")
        texts.append(f"{HEADER}\n{text}\n{FOOTERS[number % len(FOOTERS)]}\n")
        name = accession_number(number) if number % 2 else study_uid(number)
        encoding = ("utf-8", "latin-1", "utf-16")[number % 3]
        _write(made.reports / "geheimordner" / f"{name}.txt", texts[-1].encode(encoding))
    _write(made.reports / f"{patient_id(1)}.txt", texts[1].encode())  # of no study
    _write(made.reports / f"{accession_number(0)}.txt", texts[1].encode())  # a second one of its study
    _write(made.reports / "geheimdatei_ZWIEBELKRAUT.txt", b"%PDF-1.4 ZWIEBELKRAUT")
    _write(made.reports / "geheimdatei_ZWIEBELKRAUT.doc", b"OTTILIEGUNDE")
    with made.report_table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ZWIEBELKRAUT", "accession", "text"])
        writer.writerows(["OTTILIEGUNDE", accession_number(number), text] for number, text in enumerate(texts))
        writer.writerow(["", "MRN-77412Q-000", texts[0]])
        writer.writerow(["", "", "ZWIEBELKRAUT"])
        writer.writerow(["", f"{ROOT}.6.1", "IMPRESSION: of a CT."])


def _write_labels(labels: Path, phantoms: Path) -> None:
    rows = _rows(phantoms)
    kept = ["Pleural Effusion", "Cardiomegaly", "No Finding"]
    with labels.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study", *kept])
        for number, row in enumerate(rows):
            writer.writerow([accession_number(number) if number % 2 else study_uid(number), *(row[k] for k in kept)])
        writer.writerow(["MRN-77412Q-ZWIEBELKRAUT", 1, 0, 0])
