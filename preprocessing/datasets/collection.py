"""What a reader of a public data set fills: rows as of a manifest, labels, and everything that is left out."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl

from preprocessing.errors import InputError
from preprocessing.files import path_text
from preprocessing.manifest import ManifestRow, canonical_view
from preprocessing.rasters import RASTER_SUFFIXES
from preprocessing.report_records import FORMAT_REASONS
from preprocessing.tables import read_text_table

IMAGE_SUFFIXES = (*sorted(RASTER_SUFFIXES), ".dcm", ".dicom")

REASONS: dict[str, str] = {
    **FORMAT_REASONS,
    "no_patient": "the row names no patient",
    "no_study": "the row or file names no study",
    "no_image": "the row names no image",
    "not_in_table": "no table of the data set names this file, or another copy of it was taken",
    "not_in_split_lists": "neither the training nor the test list of the data set names this image",
    "other_modality": "the table says that this is no radiograph, but for instance a slice of a CT",
    "excluded_by_the_set": "the table says that this image is not to be used",
    "bad_path": "the path in the row does not say which patient and study the image is of, or leads out of the set",
    "report_without_image": "the data set names no image for this report",
    "several_reports": "several rows are reports of one study; none was taken",
    "label_value": "the value is no label, or none that the data set's documentation allows; it counts as unknown",
    "label_disagreement": "rows of one study give this label different values; it counts as unknown",
}
"""Why something of a data set is left out, and what each reason means."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that a data set holds and the store will not.

    Args:
        kind: "image", "report" or "label"; a label is left out by itself, the image that it is of is not.
        origin: the file or the row of a table; an identifier.
        reason: one of `REASONS`.
    """

    kind: str
    origin: str
    reason: str

    @property
    def detail(self) -> str:
        """What the reason means, for people."""
        return REASONS[self.reason]


@dataclass(frozen=True)
class Dataset:
    """A data set as `ingest` takes it.

    Args:
        rows: an image each.
        base: folder that the paths of reports are relative to.
        labels: as `label_table.read_label_table` returns them; `None` where the set has none.
        left_out: what is neither an image of `rows` nor a report of them nor a label.
    """

    rows: list[ManifestRow]
    base: Path = Path()
    labels: pl.DataFrame | None = None
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """A folder, and every file below it as a path relative to it, with slashes and sorted."""

    root: Path
    files: list[str]

    def table(self, *patterns: str) -> Path:
        """The first file in the root, or in a folder of it, that fits one of the patterns.

        Raises:
            InputError: when there is none.
        """
        path = self.table_if_any(*patterns)
        if path is None:
            raise InputError(
                f"{self.root}: {patterns[0]} is missing; name the folder of the data set, with its tables in it"
            )
        return path

    def table_if_any(self, *patterns: str) -> Path | None:
        """`table`, or `None` where there is none."""
        near = sorted((path for path in self.files if path.count("/") < 2), key=lambda path: (path.count("/"), path))
        fitting = (path for pattern in patterns for path in near if fnmatchcase(path.rpartition("/")[2], pattern))
        found = next(fitting, None)
        return None if found is None else self.root / found


class Collection:
    """A data set while it is read.

    Args:
        tree: files of the set.
        key: what the path of an image and the name that a table gives it have in common; the stem if not given.
    """

    def __init__(self, tree: Tree, key: Callable[[str], str] | None = None) -> None:
        self.root = tree.root
        self._key = key or stem
        self._images = {path for path in tree.files if is_image(path)}
        self._by_key: dict[str, list[str]] = defaultdict(list)
        for path in sorted(self._images, key=_preference):
            self._by_key[self._key(path)].append(path)
        self._accounted: set[str] = set()
        self._reports: set[tuple[str, str]] = set()
        self.rows: list[ManifestRow] = []
        self.left_out: list[LeftOut] = []

    def place(self, written: str) -> str:
        """Where an image is, relative to the root: as written, or else the first file of its key; as written if none.

        Folders are often flattened or renamed, and images converted from one format to another.
        """
        plain = os.path.normpath(written)
        if plain in self._images:
            return plain
        return next(iter(self._by_key.get(self._key(written), ())), plain)

    def add(
        self,
        origin: str,
        image: str,
        study: str,
        patient: str,
        *,
        view: str = "",
        text: str = "",
        report: str = "",
        split: str = "",
        inverted: bool = False,
    ) -> None:
        """Take an image, or leave it out where the row does not say whose it is or names a file outside the set.

        Of several images of a study with the same report the first carries it, so that it is not met as a duplicate.
        """
        blank = [what for what, value in (("image", image), ("patient", patient), ("study", study)) if not value]
        if blank:
            self.leave_out("image", origin, f"no_{blank[0]}", image)
            return
        place = self.place(image)
        if _is_outside(place):
            self.leave_out("image", origin, "bad_path", image)
            return
        self._accounted.add(place)
        if (study, text or report) in self._reports:
            text = report = ""
        else:
            self._reports.add((study, text or report))
        self.rows.append(
            ManifestRow(
                number=len(self.rows) + 1,
                image=place,
                path=self.root / place,
                study=study,
                patient=patient,
                view=canonical_view(view),
                text=text,
                report=report,
                split=split,
                inverted=inverted,
            )
        )

    def leave_out(self, kind: str, origin: str, reason: str, image: str = "") -> None:
        """Leave something out; `image` is the file that the row names, if any, which is accounted for by this."""
        if image:
            self._accounted.add(self.place(image))
        self.left_out.append(LeftOut(kind, f"data set: {origin}", reason))

    def finished(self, labels: pl.DataFrame | None = None, base: Path | None = None) -> Dataset:
        """Return the data set; image files that nothing named are left out."""
        for path in sorted(self._images - self._accounted):
            self.leave_out("image", path_text(path), "not_in_table")
        return Dataset(self.rows, base or self.root, labels, self.left_out)


def read_tree(root: Path, excluded: Iterable[Path] = ()) -> Tree:
    """List a folder in depth. Links to folders are followed, since large sets lie where there is room.

    Args:
        root: the folder.
        excluded: folders in it that are something else, the store for instance.

    Raises:
        InputError: when the folder is not there or cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; name the folder that holds the data set")
    found: list[str] = []
    real = os.path.realpath(root)
    seen = {real, *(os.path.realpath(path) for path in excluded)}  # links may form loops
    stack = [(real, "")]
    try:
        while stack:
            folder, name = stack.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        found.append(name + entry.name)
                        continue
                    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                    if real not in seen:
                        seen.add(real)
                        stack.append((real, f"{name}{entry.name}/"))
    except OSError as error:
        raise InputError(f"{root}: cannot be read ({error.strerror}); check its folders and permissions") from error
    return Tree(root, sorted(found))


def _is_outside(place: str) -> bool:
    """Whether a normal path leads out of the folder that it is relative to."""
    return os.path.isabs(place) or place.split("/", 1)[0] in ("..", ".")  # noqa: PTH117 -- fast


def _preference(path: str) -> tuple[bool, int, str]:
    """Of several files of one image, PNG or JPEG go before DICOM, and those in few folders before others."""
    return not path.lower().endswith(tuple(RASTER_SUFFIXES)), path.count("/"), path


def is_image(path: str) -> bool:
    """Whether a file's name says that it is a PNG, JPEG or DICOM file; those that begin with a dot are the system's."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def without_suffix(path: str) -> str:
    """A path without the suffixes of images; a folder's name keeps its dots."""
    while path.lower().endswith(IMAGE_SUFFIXES):
        path = path[: path.rindex(".")]
    return path


def stem(path: str) -> str:
    """Name of an image without folders and suffixes."""
    return without_suffix(path.rpartition("/")[2])


def read_columns(
    path: Path, needed: Iterable[str], optional: Iterable[str] = (), renamed: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Read columns of a table as text without outer spaces; blanks are "", and so are optional columns not there.

    Args:
        path: of the table.
        needed, optional: names of columns, in the order of the result.
        renamed: name in the table to the name that is asked for, where the table has not both.

    Raises:
        InputError: when the table cannot be read, holds no row, or a needed column is missing.
    """
    table = read_text_table(path)
    table = table.rename({old: new for old, new in (renamed or {}).items() if {old, new} & {*table.columns} == {old}})
    needed = list(needed)
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise InputError(
            f"{path}: has no column {', '.join(map(repr, missing))}; check that this is the set's own table"
        )
    if table.is_empty():
        raise InputError(f"{path}: holds no row; put the set's own table there")
    return table.select(
        pl.col(name).str.strip_chars().fill_null("") if name in table.columns else pl.lit("").alias(name)
        for name in dict.fromkeys([*needed, *optional])
    )


def headed_text(sections: Iterable[tuple[str, str]]) -> str:
    """A report from sections that a table gives apart: heading, then text; blank ones are left out."""
    return "\n\n".join(f"{heading.upper()}:\n{text}" for heading, text in sections if text)
