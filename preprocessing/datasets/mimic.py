"""MIMIC-CXR (Johnson et al. 2019, doi 10.1038/s41597-019-0322-0) and MIMIC-CXR-JPG (arXiv:1901.07042), versions 2.x.

Images are `files/p10/p10000032/s50414267/<dicom_id>.dcm` or `.jpg`, reports `files/p10/p10000032/s50414267.txt`, from
an archive of their own and so often in another folder. The tables of MIMIC-CXR-JPG have views, the official split and
labels; they are used for MIMIC-CXR too where they lie with it. Without them and without `cxr-record-list.csv.gz` the
files themselves tell patient and study. Labels are CheXpert's, or NegBio's where the former are not there; a blank is
not mentioned, which is unknown.
"""

import re
from collections.abc import Iterator

import polars as pl

from preprocessing.datasets.collection import (
    Collection,
    Dataset,
    Tree,
    is_image,
    read_columns,
    stem,
)
from preprocessing.datasets.labels import by_study, label_columns, names_of
from preprocessing.errors import InputError
from preprocessing.files import path_text
from preprocessing.splits import official_split

_TABLE = "mimic-cxr-2*-{}.csv*"
_IMAGE = re.compile(r"(?:^|/)p(\d{8})/s(\d{8})/[^/]+$")
_REPORT = re.compile(r"(?:^|/)s\d{8}\.txt$")
_NAMES = ["dicom_id", "study_id", "subject_id"]


def read_mimic_cxr_jpg(tree: Tree, reports: Tree) -> Dataset:
    """Read MIMIC-CXR-JPG; its tables of metadata and of the split have to be there.

    Args:
        tree: the set.
        reports: where its reports lie; the set itself, where they lie with it.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    tree.table(_TABLE.format("metadata"))
    tree.table(_TABLE.format("split"))
    return _read(tree, reports, ".jpg")


def read_mimic_cxr(tree: Tree, reports: Tree) -> Dataset:
    """Read MIMIC-CXR; no table has to be there. Arguments as of `read_mimic_cxr_jpg`.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    return _read(tree, reports, ".dcm")


def _read(tree: Tree, reports: Tree, suffix: str) -> Dataset:
    collection, names = Collection(tree), names_of("chexpert")
    texts, splits = _Texts(reports.files), _splits(tree)
    for origin, image, study, patient, view in _images(collection, tree, suffix):
        if splits is not None and image and stem(image) not in splits:
            collection.leave_out("image", origin, "not_in_split_lists", image)
            continue
        split = splits[stem(image)] if splits and image else ""
        report = texts.of(study, patient) if study and patient else ""
        collection.add(origin, image, study, patient, view=names.view(view), report=report, split=split)
    for path, reason in texts.left_out():
        collection.leave_out("report", path_text(path), reason)
    return collection.finished(_labels(collection, tree), reports.root)


class _Texts:
    """Reports by study; where there are none at all, no study is said to have one."""

    def __init__(self, files: list[str]) -> None:
        self._files = [path for path in files if _REPORT.search(path)]
        self._paths = {path.rpartition("/")[2]: path for path in reversed(self._files)}
        self._named: set[str] = set()

    def of(self, study: str, patient: str) -> str:
        """Path of a study's report: where it lies, or where it should lie."""
        if not self._files:
            return ""
        name = f"s{study}.txt"
        path = self._paths.get(name, f"files/p{patient[:2]}/p{patient}/{name}")
        self._named.add(path)
        return path

    def left_out(self) -> Iterator[tuple[str, str]]:
        """Yield path and reason of the reports that were not asked for."""
        for path in self._files:
            if path not in self._named:
                is_copy = self._paths[path.rpartition("/")[2]] in self._named
                yield path, "not_in_table" if is_copy else "report_without_image"


def _images(collection: Collection, tree: Tree, suffix: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield origin, path, study, patient and view of each image, by the best table that there is, else by the files."""
    path = tree.table_if_any(_TABLE.format("metadata"), "cxr-record-list.csv*")
    if path is None:
        yield from _images_of_files(collection, tree)
        return
    table = read_columns(path, _NAMES, ["ViewPosition", "path"])
    for number, (image, study, patient, view, written) in enumerate(table.iter_rows(), 2):
        folder = f"files/p{patient[:2]}/p{patient}/s{study}"
        place = written or (f"{folder}/{image}{suffix}" if image else "")
        yield f"{path.name} row {number}", place, study, patient, view


def _images_of_files(collection: Collection, tree: Tree) -> Iterator[tuple[str, str, str, str, str]]:
    paths = [path for path in tree.files if is_image(path)]
    if not any(_IMAGE.search(path) for path in paths):
        raise InputError(
            f"{tree.root}: holds neither files/p10/p10000032/s50414267/*.dcm nor a table of images; "
            "name the folder of MIMIC-CXR"
        )
    for path in paths:
        found = _IMAGE.search(path)
        if found is None:
            collection.leave_out("image", path_text(path), "bad_path", path)
        else:
            yield path_text(path), path, found[2], found[1], ""


def _splits(tree: Tree) -> dict[str, str] | None:
    """Image to its official part, where the table of the split is there."""
    path = tree.table_if_any(_TABLE.format("split"))
    if path is None:
        return None
    table = read_columns(path, ["dicom_id", "split"])
    wrong = table.filter(~pl.col("split").is_in(["train", "validate", "test"]))
    if not wrong.is_empty():
        raise InputError(
            f"{path}: `split` is none of train, validate and test in {len(wrong)} rows; put the set's table there"
        )
    return {image: official_split(split) or "" for image, split in table.iter_rows()}


def _labels(collection: Collection, tree: Tree) -> pl.DataFrame | None:
    path = tree.table_if_any(_TABLE.format("chexpert"), _TABLE.format("negbio"))
    if path is None:
        return None
    names = names_of("chexpert")
    table = read_columns(path, ["study_id", *names.labels], renamed=names.same)
    return by_study(collection, label_columns(collection, table, table["study_id"].to_list(), names, path.name))
