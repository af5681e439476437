"""Where the images of a run come from: folder, file, ZIP archive, DICOMDIR, list of paths or manifest.

The first step of `ingest`. Nothing is left out by its name: what turns out to be no radiograph becomes a reject with a
reason, and so does what cannot be opened. ZIP archives are read in place; nothing is ever extracted to the disk.
"""

import itertools
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydicom.filereader import read_file_meta_info

from preprocessing.archives import is_archive, is_unsafe, member_bytes, members_of
from preprocessing.dicom import file_bytes, parse_dicom
from preprocessing.errors import InputError, UnusableFile
from preprocessing.files import path_text
from preprocessing.header_values import caught_warnings, text
from preprocessing.manifest import ManifestRow

DICOMDIR = "1.2.840.10008.1.3.10"
"""SOP class of a media directory (PS3.4, B.5 and PS3.10)."""

_WHOLE = "\0"
"""`SourceImage.member` of an archive without members, or whose members cannot be listed; no member is called this."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One thing to convert.

    Args:
        path: file to open; names that are not UTF-8 are in it as `os.fsdecode` has them.
        origin: where it came from, as text for people and the private table; no two images of a run share it.
        member: which file inside a ZIP archive: its name, with a NUL and a number where the archive has that name
            several times; blank for a file of its own.
        version: changes when the content does: size and time of change, or checksum and size of a member. Blank where
            it cannot be told.
        row: what a manifest says of it.
    """

    path: str
    origin: str
    member: str = ""
    version: str = ""
    row: ManifestRow | None = None


def find_images(source: Path, excluded: Iterable[Path]) -> Iterator[SourceImage]:
    """Yield every file of a folder (in depth), ZIP archive, DICOMDIR or list of paths, or the one file.

    What a source is, its content tells, except that a list is a text file named `.txt`: a path a line, relative to the
    list or absolute; blank lines, and lines that begin with #, are skipped. Archives in folders and lists are opened,
    a DICOMDIR there is a file like others. The order depends on names and not on the file system. Links to folders are
    not followed (they may form loops), and folders that cannot be entered are not skipped in silence: both come as
    files, and become rejects.

    Args:
        source: where to look.
        excluded: files and folders inside it that are something else: the reports, the store, ...

    Raises:
        InputError: when the source is not there, cannot be read or holds no file; all of it at once, not on the way.
    """
    try:
        images = _of_source(source.absolute(), source, {_real(path) for path in excluded})
        first = next(images, None)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if first is None:
        raise InputError(f"{source}: holds no files; name the folder that holds the DICOM images")
    return itertools.chain([first], images)


def manifest_images(rows: Iterable[ManifestRow]) -> Iterator[SourceImage]:
    """Yield the images of a manifest, sorted by path; a path in several rows comes once for each.

    Origins do not depend on the number of a row, which changes where others are inserted before it.
    """
    for image, same in itertools.groupby(sorted(rows, key=lambda row: (row.image, row.number)), lambda row: row.image):
        for time, row in enumerate(same, 1):
            path = str(row.path.absolute())
            # Reports stay behind: a worker has no use for them.
            bare = replace(row, text="")
            yield SourceImage(path, f"manifest image {time}: {image}", "", file_version(path), bare)


def source_bytes(image: SourceImage) -> bytes:
    """Read the whole content of an image.

    Raises:
        UnusableFile: see `dicom.file_bytes` and `archives.member_bytes`.
    """
    return member_bytes(image.path, image.member) if image.member else file_bytes(Path(image.path))


def _of_source(path: Path, source: Path, left_out: set[str]) -> Iterator[SourceImage]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise InputError(f"{source}: there is no such file or folder; check the path") from None
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # of all folders, only this one has to be readable
        return _of_folder(str(path), "", left_out)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{source}: is neither a file nor a folder; name what holds the DICOM images")
    with path.open("rb") as file:
        head = file.read(132)
    if is_archive(str(path)):
        with suppress(UnusableFile):  # one that cannot be listed is an image with a reason
            if not members_of(str(path)):
                raise InputError(f"{source}: this archive holds no files; name one that holds DICOM images")
    elif _is_dicomdir(path, head):
        return _of_dicomdir(path, source)
    elif head[128:] != b"DICM" and path.suffix.lower() == ".txt":
        return _of_list(path, source, left_out)
    return _of_file(str(path), _path_origin(path.name), status)


def _of_folder(path: str, name: str, left_out: Collection[str], own: Collection[str] = ()) -> Iterator[SourceImage]:
    """Walk a folder whose files are called `name`/... in origins; `own` are paths that a list names by themselves."""
    try:
        stack = [(name, os.path.realpath(path), _entries(path))]
    except OSError:
        yield from _of_file(path, _path_origin(name), _status(path))
        return
    while stack:  # no recursion: folders may be nested deeper than Python allows calls
        name, real, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        below, place = os.path.join(name, entry.name), _place(entry, real)  # noqa: PTH118 -- fast
        if entry.path in own or place in left_out:
            continue
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                stack.append((below, place, _entries(entry.path)))
                continue
        yield from _of_file(entry.path, _path_origin(below), _status(entry.path))


def _place(entry: os.DirEntry[str], folder: str) -> str:
    """`os.path.realpath` of what is in a folder whose own is known."""
    place = os.path.join(folder, entry.name)  # noqa: PTH118 -- fast
    with suppress(OSError):
        return os.path.realpath(place) if entry.is_symlink() else place
    return place


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


def _of_file(path: str, origin: str, status: os.stat_result | None) -> Iterator[SourceImage]:
    """The file, or the members of the archive that it is."""
    if status is None or not stat.S_ISREG(status.st_mode) or not is_archive(path):
        yield SourceImage(path, origin, version=_version(status))
        return
    try:
        members = members_of(path)
    except UnusableFile:
        members = {}
    if not members:
        yield SourceImage(path, origin, _WHOLE, _version(status))
    for member, info in members.items():
        yield SourceImage(path, f"{origin}!/{_name_origin(member)}", member, f"{info.CRC:08x} {info.file_size}")


def _of_dicomdir(path: Path, source: Path) -> Iterator[SourceImage]:
    names = _referenced_files(path, source)
    if not names:
        raise InputError(f"{source}: this DICOMDIR names no image; name the folder that holds the images")
    version = file_version(str(path))
    for name in names:
        if is_unsafe(name):
            yield SourceImage(str(path), _name_origin(name), name, version)
            continue
        # Discs are upper case; Linux shows those without long names in lower case.
        file = min((path.parent / name, path.parent / name.lower()), key=lambda file: not file.exists())
        yield from _of_file(str(file), _path_origin(name), _status(str(file)))


def _referenced_files(path: Path, source: Path) -> list[str]:
    """ReferencedFileID of each IMAGE record in use (PS3.3, F.3.2.2), its components joined by slashes; each once."""
    try:
        with caught_warnings():
            records = parse_dicom(file_bytes(path)).get("DirectoryRecordSequence") or ()
            used = [record for record in records if record.get("RecordInUseFlag") != 0]
            images = [record for record in used if text(record, "DirectoryRecordType") == "IMAGE"]
            names = [text(record, "ReferencedFileID").replace("\\", "/") for record in images]
    except Exception as error:  # pydicom raises what Python raised on the way
        raise InputError(f"{source}: this DICOMDIR is damaged; name the folder that holds the images") from error
    return list(dict.fromkeys(name if is_unsafe(name) else str(PurePosixPath(name)) for name in names if name))


def _is_dicomdir(path: Path, head: bytes) -> bool:
    if head[128:] != b"DICM":
        return False
    try:
        with caught_warnings():
            return text(read_file_meta_info(path), "MediaStorageSOPClassUID") == DICOMDIR
    except Exception:  # an image with a damaged header is an image still
        return False


def _of_list(path: Path, source: Path, left_out: set[str]) -> Iterator[SourceImage]:
    lines = _lines(path, source)
    if not lines:
        raise InputError(f"{source}: this list names no files; write one path a line")
    own = dict.fromkeys(_plain(os.path.join(path.parent, line)) for line in lines)  # noqa: PTH118 -- fast
    left_out = left_out | {os.path.realpath(path)}
    for file in own:
        if _lies_in(_real(file), left_out):
            continue
        name = file.removeprefix(os.path.join(path.parent, ""))  # noqa: PTH118
        status = _status(file)
        if status is not None and stat.S_ISDIR(status.st_mode):
            yield from _of_folder(file, "" if file == str(path.parent) else name, left_out, own)
        else:
            yield from _of_file(file, _path_origin(name), status)


def _lies_in(path: str, left_out: Collection[str]) -> bool:
    while path not in left_out:
        path, below = os.path.dirname(path), path  # noqa: PTH120 -- fast
        if path == below:
            return False
    return True


def _lines(path: Path, source: Path) -> list[str]:
    try:
        content = file_bytes(path).removeprefix(b"\xef\xbb\xbf")
    except UnusableFile as error:
        content = b""
        if error.reason != "empty_file":
            raise InputError(f"{source}: cannot be read ({error.detail}); check the path and its permissions") from None
    if b"\0" in content:
        raise InputError(f"{source}: is not a text file; write a list as UTF-8, one path a line")
    lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
    return [os.fsdecode(line) for line in lines if line.strip() and not line.startswith(b"#")]


def _plain(path: str) -> str:
    """The path without `.` and `..`, unless it would be another file's then, as it can be behind links."""
    plain = os.path.normpath(path)
    return plain if ".." not in path or os.path.realpath(plain) == os.path.realpath(path) else path


def _path_origin(path: str) -> str:
    """`path_text`, apart from the origins of members and of images of a manifest also where a name imitates those."""
    origin = path_text(path).replace("!/", r"\x21/")
    return re.sub("^m(?=anifest image)", r"\\x6d", origin)


def _name_origin(member: str) -> str:
    return member.replace("\\", r"\\").replace("\0", r"\#")


def _real(path: str | Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL, from a manifest
        return os.fspath(path)


def _status(path: str) -> os.stat_result | None:
    """What the system says of a file or of what it is a link to; `None` where it says nothing."""
    try:
        return os.stat(path)  # noqa: PTH116 -- fast
    except (OSError, ValueError):
        return None


def _version(status: os.stat_result | None) -> str:
    return f"{status.st_size} {status.st_mtime_ns}" if status else ""


def file_version(path: str) -> str:
    """Changes when the content of a file does: size and time of change. Blank where the system does not tell them."""
    return _version(_status(path))
