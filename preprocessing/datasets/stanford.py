"""CheXpert (Irvin et al. 2019, arXiv:1901.07031) and CheXpert Plus (Chambon et al. 2024, arXiv:2405.19538).

Paths in the tables end in `train/patient00001/study1/view1_frontal.jpg`; what stands before is the name of the set's
own folder, which differs between releases. Labels are of the study; 1, 0, -1, and a blank for what the report does not
mention. The official parts are kept: `valid` is for validation, and `test`, which was released later, for test.
"""

import re

import polars as pl

from preprocessing.datasets.collection import (
    Collection,
    Dataset,
    Tree,
    headed_text,
    read_columns,
    stem,
    without_suffix,
)
from preprocessing.datasets.labels import by_study, label_columns, names_of
from preprocessing.errors import InputError
from preprocessing.splits import official_split

_PATH = re.compile(r"(?:^|/)((train|valid|test)/(patient[^/]+)/(study[^/]+)/[^/]+)$")

_TABLES = (("train.csv",), ("valid.csv",), ("test.csv", "test_labels.csv"))
_SECTIONS = ("clinical history", "history", "comparison", "technique", "findings", "impression", "summary")


def read_chexpert(tree: Tree) -> Dataset:
    """Read `train.csv`, `valid.csv` and, where it is there, `test.csv`.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    paths = [path for names in _TABLES if (path := tree.table_if_any(*names)) is not None]
    if not paths:
        raise InputError(
            f"{tree.root}: train.csv and valid.csv are missing; name the folder of CheXpert that holds them"
        )
    collection, names = Collection(tree, _key), names_of("chexpert")
    labels = []
    for path in paths:
        table = read_columns(path, ["Path", *names.labels], ["Frontal/Lateral", "AP/PA"], names.same)
        rows = table.select("Path", "Frontal/Lateral", "AP/PA").iter_rows()
        studies = [
            _add(collection, f"{path.name} row {number}", image, _view(image, side, projection))
            for number, (image, side, projection) in enumerate(rows, 2)
        ]
        labels.append(label_columns(collection, table, studies, names, path.name))
    return collection.finished(by_study(collection, pl.concat(labels)))


def read_chexpert_plus(tree: Tree) -> Dataset:
    """Read `df_chexpert_plus_240401.csv`: reports and patients; its labels come apart and are not read.

    A report is put together from the sections that the table gives; where neither findings nor impression is among
    them it is the column `report`. Images may be the set's own PNG or DICOM files, or CheXpert's, whatever suffix
    `path_to_image` has.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    path = tree.table("df_chexpert_plus*.csv*")
    collection = Collection(tree, _key)
    sections = {f"section_{name.replace(' ', '_')}": name for name in _SECTIONS}
    needed = ["path_to_image", "deid_patient_id", "section_findings", "section_impression", "split"]
    table = read_columns(path, needed, ["frontal_lateral", "ap_pa", "report", *sections])
    for number, row in enumerate(table.iter_rows(named=True), 2):
        text = row["report"]
        if row["section_findings"] or row["section_impression"]:
            text = headed_text((heading, row[column]) for column, heading in sections.items())
        image = row["path_to_image"]
        view = _view(image, row["frontal_lateral"], row["ap_pa"])
        _add(collection, f"{path.name} row {number}", image, view, text, row["deid_patient_id"], row["split"])
    return collection.finished()


def _add(
    collection: Collection,
    origin: str,
    path: str,
    view: str,
    text: str = "",
    patient: str | None = None,
    part: str = "",
) -> str:
    """Take an image; return its study, or "" where the path does not tell it."""
    found = _PATH.search(path)
    if found is None:
        collection.leave_out("image", origin, "bad_path", path)
        return ""
    image, folder, own, study = found.groups()
    split = official_split(part) or official_split(folder) or ""
    study = f"{own}/{study}"
    collection.add(origin, image, study, own if patient is None else patient, view=view, text=text, split=split)
    return study


def _view(path: str, side: str, projection: str) -> str:
    """A lateral view by its column, or by the name of the file where the table has no such column."""
    is_lateral = side.lower() == "lateral" if side else stem(path).lower().endswith("lateral")
    return "LATERAL" if is_lateral else projection


def _key(path: str) -> str:
    """`patient00001/study1/view1_frontal`: no patient is in two parts, and folders above have many names."""
    return "/".join(without_suffix(path).split("/")[-3:])
