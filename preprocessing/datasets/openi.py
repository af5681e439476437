"""Open-i, the chest X-rays of Indiana University (Demner-Fushman et al. 2016, doi 10.1093/jamia/ocv080).

As the National Library of Medicine gives it out: `ecgen-radiology/*.xml`, a report each, which names its images
(`parentImage`); these are `CXR1_1_IM-0001-3001.png` or `1/1_IM-0001-3001.dcm`. As it is on Kaggle:
`indiana_reports.csv` and `indiana_projections.csv`, images `1_IM-0001-4001.dcm.png`. A report is a study and, as the
set names no patients, a patient. There is no official split, and no label but a librarian's headings, which are not
read.
"""

import re
from collections import Counter
from pathlib import Path

from preprocessing import openi_reports
from preprocessing.datasets.collection import (
    REASONS,
    Collection,
    Dataset,
    Tree,
    headed_text,
    read_columns,
    stem,
)
from preprocessing.errors import InputError, UnusableFile
from preprocessing.files import path_text
from preprocessing.text_files import LONGEST_REPORT

_PREFIX = re.compile(r"^CXR(?:\d+_(?=\d+_IM))?")
_SECTIONS = ("indication", "comparison", "findings", "impression")


def read_openi(tree: Tree) -> Dataset:
    """Read the data set in either form.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    if tree.table_if_any("indiana_reports.csv"):
        return _read_tables(tree)
    return _read_xml(tree)


def _read_xml(tree: Tree) -> Dataset:
    collection = Collection(tree, image_key)
    paths = [path for path in tree.files if path.lower().endswith(".xml")]
    if not paths:
        raise InputError(
            f"{tree.root}: holds neither ecgen-radiology/*.xml nor indiana_reports.csv; name the folder of the data set"
        )
    for path in paths:
        try:
            content = _start_of(tree.root / path)
            text, study, images = _text(content), *_ids(content)
        except UnusableFile as error:
            collection.leave_out("report", path_text(path), error.reason)
            continue
        if not text:
            collection.leave_out("report", path_text(path), "empty_report")
        elif not images:
            collection.leave_out("report", path_text(path), "report_without_image")
        for image in images:
            collection.add(f"{path_text(path)}: {image}", f"{image}.png", study, study, text=text)
    return collection.finished()


def _start_of(path: Path) -> bytes:
    """One byte more than the longest report."""
    if not path.is_file():
        raise UnusableFile("not_a_file", REASONS["not_a_file"])
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_REPORT + 1)
    except OSError as error:
        raise UnusableFile("unreadable", REASONS["unreadable"]) from error


def _text(content: bytes) -> str:
    """The report; blank where there is none."""
    try:
        return openi_reports.read_openi(content, "").text
    except UnusableFile as error:
        if error.reason != "empty_report":
            raise
        return ""


def _ids(content: bytes) -> tuple[str, list[str]]:
    """Id of a report, or blank, and ids of its images."""
    root = openi_reports.root_of(content)
    ids = [element.get("id", "").strip() for element in root.iter("uId")]
    images = [element.get("id", "").strip() for element in root.iter("parentImage")]
    return next(iter(ids), ""), [image for image in images if image]


def _read_tables(tree: Tree) -> Dataset:
    collection = Collection(tree, image_key)
    path, texts_path = tree.table("indiana_projections.csv"), tree.table("indiana_reports.csv")
    projections = read_columns(path, ["uid", "filename", "projection"])
    texts = _texts(collection, texts_path, set(projections["uid"]))
    for number, (study, image, view) in enumerate(projections.iter_rows(), 2):
        collection.add(f"{path.name} row {number}", image, study, study, view=view, text=texts.get(study, ""))
    return collection.finished()


def _texts(collection: Collection, path: Path, studies: set[str]) -> dict[str, str]:
    """Report of each study; rows that are none, or one of several, are left out."""
    table = read_columns(path, ["uid", *_SECTIONS])
    times = Counter(table["uid"])
    texts = {}
    for number, (study, *sections) in enumerate(table.iter_rows(), 2):
        text = headed_text(zip(_SECTIONS, sections, strict=True))
        reasons = {
            "no_study": not study,
            "report_without_image": study not in studies,
            "several_reports": times[study] > 1,
            "empty_report": not text,
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        if reason:
            collection.leave_out("report", f"{path.name} row {number}", reason)
        else:
            texts[study] = text
    return texts


def image_key(path: str) -> str:
    """`1_IM-0001-3001` for `CXR1_1_IM-0001-3001.png`, `1_IM-0001-3001.dcm` and `1_IM-0001-3001.dcm.png` alike."""
    return _PREFIX.sub("", stem(path))
