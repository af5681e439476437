"""Public data sets by name: each one's own tables and folders -> rows as of a manifest, labels, and what is left out.

A data set goes the way of a manifest from there, so that PNG and JPEG files meet the same checks as DICOM files, and
one schema holds for all. Official splits are kept. What a set's tables look like, its reader says.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from preprocessing.datasets.brax import read_brax
from preprocessing.datasets.collection import Dataset, LeftOut, Tree, read_tree
from preprocessing.datasets.covid_chestxray import read_covid_chestxray
from preprocessing.datasets.mimic import read_mimic_cxr, read_mimic_cxr_jpg
from preprocessing.datasets.nih14 import read_nih14
from preprocessing.datasets.openi import read_openi
from preprocessing.datasets.padchest import read_padchest
from preprocessing.datasets.stanford import read_chexpert, read_chexpert_plus
from preprocessing.datasets.vindr import read_vindr_cxr
from preprocessing.errors import InputError

__all__ = ["DATASETS", "FOLDER", "Dataset", "LeftOut", "has_own_reports", "read_dataset"]

FOLDER = "folder"
"""A hospital's own images, which `ingest` finds itself."""

_READERS: dict[str, Callable[[Tree], Dataset]] = {
    "openi": read_openi,
    "chexpert": read_chexpert,
    "chexpert-plus": read_chexpert_plus,
    "nih14": read_nih14,
    "padchest": read_padchest,
    "vindr-cxr": read_vindr_cxr,
    "brax": read_brax,
    "covid-chestxray": read_covid_chestxray,
}
_READERS_WITH_REPORTS: dict[str, Callable[[Tree, Tree], Dataset]] = {
    "mimic-cxr": read_mimic_cxr,
    "mimic-cxr-jpg": read_mimic_cxr_jpg,
}

DATASETS = (FOLDER, *sorted([*_READERS, *_READERS_WITH_REPORTS]))
"""Names of data sets."""


def has_own_reports(name: str, reports: Path | None) -> bool:
    """Whether a folder of reports belongs to the set and is read with it, and not as reports from elsewhere."""
    return name in _READERS_WITH_REPORTS and reports is not None and reports.is_dir()


def read_dataset(name: str, root: Path, reports: Path | None = None, excluded: Iterable[Path] = ()) -> Dataset:
    """Read a public data set.

    Args:
        name: one of `DATASETS`, but for `FOLDER`.
        root: folder that holds the set as it is distributed.
        reports: folder of MIMIC-CXR's reports, where they lie elsewhere; other sets do not look at it.
        excluded: folders in the root that are something else, the store for instance.

    Raises:
        InputError: the name is unknown, the folder does not look like the set, or a table cannot be used.
    """
    excluded = list(excluded)
    if name in _READERS:
        dataset = _READERS[name](read_tree(root, excluded))
    elif name in _READERS_WITH_REPORTS:
        tree = read_tree(root, excluded)
        texts = read_tree(reports, excluded) if reports is not None and has_own_reports(name, reports) else tree
        dataset = _READERS_WITH_REPORTS[name](tree, texts)
    else:
        raise InputError(f"{name!r} is no data set that is known by name; choose one of {', '.join(DATASETS)}")
    if not dataset.rows:
        raise InputError(f"{root}: not one row of the data set names an image and its patient; check the tables")
    return dataset
