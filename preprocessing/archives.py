"""ZIP archives as sources of images: their members listed, and read in place, with bounds; called by `sources`.

Nothing is ever extracted to the disk. What an archive says of itself is not believed: names, sizes and places are
checked before a member is inflated, and its length and checksum while it is.
"""

import os
import re
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping
from errno import EACCES, EINVAL, ENOENT
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

from preprocessing.dicom import MAXIMUM_BYTES, REASONS
from preprocessing.errors import UnusableFile

_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_LOCAL_HEADER = 30  # bytes of it that are always there (PKWARE APPNOTE, 4.3.7)
_ENCRYPTED, _HIDDEN = 0x0041, 0x2000  # general purpose flags: bits 0 and 6 of a member, 13 of a whole archive
_PART = 1 << 20

_last = threading.local()
"""The archive that this thread read last: neighbours in an archive follow one another."""


def is_archive(path: str) -> bool:
    """Whether a regular file is a ZIP archive by its content; not where it cannot be read, or is DICOM as well."""
    try:
        head = _head(path)
        if starts_archive(head):
            return True
        # Archives that begin with something else, such as those that unpack themselves, end as all do.
        return path.lower().endswith(".zip") and head[128:] != b"DICM" and is_zipfile(path)
    except OSError:
        return False
    except BadZipFile:  # a part of one that was split over several files
        return True


def members_of(path: str) -> Mapping[str, ZipInfo]:
    """The files in an archive, in its own order, folders left out, by keys that are never blank.

    A key is the name in the archive, followed by a NUL and a number where that is blank or there already; names
    themselves hold no NUL.

    Raises:
        UnusableFile: the archive cannot be read, or its directory is damaged or encrypted.
    """
    return _opened(path).members


def member_bytes(path: str, member: str) -> bytes:
    """Read a file in an archive, by its key in `members_of`.

    There is no limit on how far it may inflate, as an even radiograph deflates a thousandfold; there is one on the
    result, and members may not share compressed bytes, so that an archive as a whole inflates no further than deflate
    allows for its size.

    Raises:
        UnusableFile: see `members_of`; or the member is encrypted, damaged, empty, too large, an archive itself, or
            named so that the name leads out of the archive.
    """
    if is_unsafe(member.partition("\0")[0]):
        raise UnusableFile("unsafe_path", REASONS["unsafe_path"])
    archive = _opened(path)
    if not archive.members:
        raise UnusableFile("empty_file", "the archive holds no files")
    if member not in archive.members:
        raise UnusableFile("missing_file", "the archive no longer holds this file")
    content = archive.content(archive.members[member])
    if not content:
        raise UnusableFile("empty_file", REASONS["empty_file"])
    if starts_archive(content):
        raise UnusableFile("nested_archive", REASONS["nested_archive"])
    return content


def starts_archive(content: bytes) -> bool:
    """Whether content begins as a ZIP archive does and not, 128 bytes on, as DICOM does."""
    return content.startswith(_STARTS) and content[128:132] != b"DICM"


def is_unsafe(name: str) -> bool:
    """Whether a name in an archive, or on a disc, leads out of it: absolute, with a drive or with `..`."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or (len(parts) > 1 and not parts[0]) or bool(re.match("[A-Za-z]:", name))


class _Archive:
    """An open ZIP archive: its members, as `members_of` gives them, and their content."""

    def __init__(self, path: str) -> None:
        try:
            self._file = ZipFile(path)
        except MemoryError:
            raise
        except Exception as error:  # zipfile raises what Python raised on the way
            raise _unusable(error, path) from None
        files = [info for info in self._file.infolist() if info.file_size or not info.filename.endswith("/")]
        self.members: dict[str, ZipInfo] = {}
        seen: Counter[str] = Counter({"": 1})  # a blank name would stand for no member
        for info in files:
            seen[info.filename] += 1
            number = seen[info.filename]
            self.members[info.filename if number == 1 else f"{info.filename}\0{number}"] = info
        self._starts = sorted([*(info.header_offset for info in self._file.infolist()), self._file.start_dir])

    def content(self, info: ZipInfo) -> bytes:
        if info.flag_bits & _ENCRYPTED:
            raise UnusableFile("encrypted", REASONS["encrypted"])
        if info.file_size > MAXIMUM_BYTES:
            raise UnusableFile("too_large", f"the file is larger than {MAXIMUM_BYTES} bytes")
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # zipfile inflates others without a bound
            raise UnusableFile("corrupt_archive", "the file is compressed in a way that is not read here")
        if self._overlaps(info):
            raise UnusableFile("corrupt_archive", "files in the archive overlap: it is damaged or a bomb")
        return self._inflated(info)

    def _overlaps(self, info: ZipInfo) -> bool:
        """Whether another member, or the directory, begins where this one does or before it ends."""
        after = bisect_right(self._starts, info.header_offset)
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
        alone = after - bisect_left(self._starts, info.header_offset) == 1
        return not alone or after == len(self._starts) or self._starts[after] < end

    def _inflated(self, info: ZipInfo) -> bytes:
        """zipfile gives no more than the declared size, however much there is, and checks the checksum of that."""
        content = BytesIO()
        try:
            with self._file.open(info) as stream:
                while part := stream.read(_PART):
                    content.write(part)
        except MemoryError:
            raise
        except Exception as error:
            raise _unusable(error) from None
        if content.tell() != info.file_size:
            raise UnusableFile("corrupt_archive", "a file in the archive is not as long as the archive says")
        return content.getvalue()


def _opened(path: str) -> _Archive:
    """Open an archive, unless it is the one that this thread read last."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise _unusable(error) from None
    # The process is part of the key: a forked one would share the place in the file with its parent.
    key = (os.getpid(), path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if getattr(_last, "key", None) != key:
        _last.key = _last.archive = None
        _last.archive = _Archive(path)
        _last.key = key
    archive: _Archive = _last.archive
    return archive


def _unusable(error: Exception, path: str = "") -> UnusableFile:
    if isinstance(error, OSError) and error.errno not in (None, EINVAL):  # those two come of impossible offsets
        reasons = {ENOENT: "missing_file", EACCES: "permission"}
        reason = reasons.get(error.errno or 0, "read_error")
        return UnusableFile(reason, f"the archive cannot be read (errno {error.errno})")
    reason = "encrypted" if path and _hides_directory(path) else "corrupt_archive"
    return UnusableFile(reason, REASONS[reason])


def _hides_directory(path: str) -> bool:
    """Whether the archive says of its first member that the directory is encrypted (PKWARE APPNOTE, 4.4.4)."""
    try:
        head = _head(path)
    except OSError:
        return False
    return head.startswith(b"PK\x03\x04") and bool(int.from_bytes(head[6:8], "little") & _HIDDEN)


def _head(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- fast: asked of every file
        return file.read(132)
