"""A manifest: images that are already PNG or JPEG, with what a DICOM header would have said; a way into `ingest`.

Columns: `image` (path), `study`, `patient`; optionally `view`, `text` or `report` (path of a text file), `split`, and
`inverted` (1 where a PNG or JPEG shows bone dark, else 0 or blank). Paths are relative to the manifest. Public data
sets come through this door (`preprocessing.datasets`).
"""

from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import InputError
from preprocessing.splits import official_split
from preprocessing.tables import read_text_table
from preprocessing.views import VIEW_POSITIONS, is_decubitus

REQUIRED = ("image", "study", "patient")
OPTIONAL = ("view", "text", "report", "split", "inverted")

_TRUTH = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image of a manifest.

    Args:
        number: row of the table; the header is row 1.
        image: path as written, and `path` where that is.
        study: the manifest's own study id.
        patient: the manifest's own patient id.
        view: "PA", "AP", "LATERAL", "OBLIQUE" or "UNKNOWN".
        text: the report itself, or blank.
        report: path of the report as written, or blank.
        split: "training", "validation", "test", `splits.TRAINING_OR_VALIDATION` or blank.
        inverted: whether a PNG or JPEG shows bone dark, as MONOCHROME1 does; of a DICOM file its header tells.
    """

    number: int
    image: str
    path: Path
    study: str
    patient: str
    view: str
    text: str
    report: str
    split: str
    inverted: bool = False


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest.

    Raises:
        InputError: when a required column or value is missing, or a split or `inverted` has an unknown value.
    """
    table = read_text_table(path)
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise InputError(f"{path}: a manifest needs the columns {', '.join(REQUIRED)}; {', '.join(missing)} is missing")
    if "text" in table.columns and "report" in table.columns:
        raise InputError(f"{path}: give the reports either in `text` or as paths in `report`, not both")
    known = [name for name in (*REQUIRED, *OPTIONAL) if name in table.columns]
    rows = []
    for number, values in enumerate(table.select(known).iter_rows(named=True), 2):
        cells = {name: (values.get(name) or "").strip() for name in (*REQUIRED, *OPTIONAL)}
        blank = [name for name in REQUIRED if not cells[name]]
        if blank:
            raise InputError(f"{path}: row {number} has no {blank[0]}; fill it in")
        split = official_split(cells["split"]) if cells["split"] else ""
        if split is None:
            raise InputError(f"{path}: row {number}: `split` is none of train, validation, train_val, test and blank")
        inverted = _TRUTH.get(cells.pop("inverted").lower())
        if inverted is None:
            raise InputError(f"{path}: row {number}: `inverted` is none of 1, 0 and blank")
        cells |= {"view": canonical_view(cells["view"]), "split": split}
        rows.append(ManifestRow(number=number, path=path.parent / cells["image"], inverted=inverted, **cells))
    return rows


def canonical_view(view: str) -> str:
    """The name used here for a view as data sets write it ("AP Supine" is "AP"); "UNKNOWN" where that is not sure."""
    if is_decubitus(view):
        return "UNKNOWN"
    first = view.upper().split()[:1]
    return VIEW_POSITIONS.get(first[0], "UNKNOWN") if first else "UNKNOWN"
