"""Files that appear whole under their names or not at all, and the names of source files as text; used by all writers.

`write_atomically` survives a kill, a full disk and a power cut: what has a final name has its final content.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class StoreNotWritable(Exception):  # noqa: N818 -- says what is the matter, as `UnusableFile` does
    """Output cannot be written, for instance on a full disk: the end of the job, never the fault of one source file.

    Args:
        number: `errno` of the failure.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return os.strerror(self.number)


def write_atomically(path: Path, content: bytes | Iterable[bytes], mode: int = 0o666) -> str:
    """Write a file under a temporary name, bring it to the disk, then put it in place at once.

    Args:
        path: the final name; what is there is replaced.
        content: all of it, or its parts in order.
        mode: permissions, less the umask; nobody else can read a private file even while it is being written.

    Returns:
        SHA-256 of the content, in hexadecimal.

    Raises:
        OSError: it cannot be written; neither the temporary file nor a part of the content is left then.
    """
    # Not the number of the process: those of several machines may share a folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    digest = hashlib.sha256()
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            for part in (content,) if isinstance(content, bytes) else content:
                file.write(part)
                digest.update(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def is_temporary(path: Path) -> bool:
    """Whether a name is one of those under which `write_atomically` begins."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def sweep_temporaries(folders: Iterable[Path]) -> None:
    """Remove what killed runs left under temporary names; nobody else may be writing there."""
    for folder in folders:
        for leftover in filter(is_temporary, folder.iterdir() if folder.is_dir() else ()):
            leftover.unlink(missing_ok=True)


def path_text(path: str | Path) -> str:
    r"""A path as text that any table can hold; two paths never have the same text.

    Names on Linux are bytes. Those that are not UTF-8 become `\xNN`, and so a backslash becomes two.
    """
    return os.fsencode(Path(path).as_posix()).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
