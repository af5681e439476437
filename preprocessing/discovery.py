"""Which files an ingest run looks at, in an order that does not depend on the file system."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from preprocessing.conversion import SourceImage
from preprocessing.errors import InputError
from preprocessing.files import path_text
from preprocessing.manifest import ManifestRow


def find_images(source: Path, excluded: Iterable[Path]) -> list[SourceImage]:
    """Every file below a folder, or the one file, sorted by relative path; nothing is left out by its name.

    Links to folders are not followed (they may form loops), and folders that cannot be entered are not skipped in
    silence: both are listed as files, and become rejects.

    Args:
        source: folder or file.
        excluded: files and folders inside it that are something else: the reports, the store, ...

    Raises:
        InputError: when the source is not there, cannot be read or holds no file.
    """
    try:
        if source.is_file():
            return [SourceImage(source, path_text(source.name))]
        if not source.is_dir():
            raise InputError(f"{source}: there is no such file or folder; check the path")
    except OSError as error:
        raise _unreadable(source, error) from error
    left_out = {os.path.realpath(path) for path in excluded}
    found: list[Path] = []
    closed: list[OSError] = []
    for folder, folders, files in os.walk(source, onerror=closed.append):
        below = Path(folder)
        links = [name for name in folders if (below / name).is_symlink()]
        found += [below / name for name in (*files, *links) if os.path.realpath(below / name) not in left_out]
        folders[:] = [name for name in folders if os.path.realpath(below / name) not in left_out]
    for failure in closed:
        if Path(failure.filename) == source:
            raise _unreadable(source, failure)
        found.append(Path(failure.filename))
    if not found:
        raise InputError(f"{source}: holds no files; name the folder that holds the DICOM images")
    images = (SourceImage(path, path_text(path.relative_to(source))) for path in found)
    return sorted(images, key=lambda image: image.origin)


def _unreadable(source: Path, error: OSError) -> InputError:
    return InputError(f"{source}: cannot be read ({error.strerror}); check the path and its permissions")


def manifest_images(rows: Iterable[ManifestRow]) -> list[SourceImage]:
    """The images of a manifest, sorted by path; a path in several rows comes once for each."""
    # Reports stay behind: a worker has no use for them.
    bare = (replace(row, text="") for row in rows)
    images = (SourceImage(row.path, f"manifest row {row.number}: {row.image}", row) for row in bare)
    return sorted(images, key=lambda image: (image.row.image, image.row.number) if image.row else ("", 0))
