"""Keyed pseudonyms: the only form in which an identity leaves ingest.

PS3.15 Annex E (Basic Application Level Confidentiality Profile) has UIDs and patient identifiers replaced. They are
replaced here by an HMAC under a key that stays outside the store, never by a plain hash: record numbers are few, and
whoever has the hash of all of them has them all. The way back is one protected table beside the key.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from preprocessing.errors import InputError
from preprocessing.files import write_atomically

KEY_BYTES = 32
PSEUDONYM_DIGITS = 24
"""Hexadecimal digits, 96 bits: two of a billion identities meet with a probability below 1e-10."""

KINDS = frozenset({"patient", "study", "accession", "image", "file", "report"})


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Replace an identifier: HMAC-SHA256 of kind and value under the key, as 24 hexadecimal digits.

    The same value under another kind has an unrelated pseudonym.

    Raises:
        ValueError: for a kind that is not in `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of pseudonym: {kind}")
    return _digest(key, f"{kind}\0{value}")


def day_shift(key: bytes, patient: str) -> int:
    """Days by which all dates of a patient are moved: 0 to 36,524, from the key (PS3.15 annex E.3.6).

    Differences between dates of one patient stay; the dates themselves tell nothing.
    """
    return int(_digest(key, f"dates\0{patient}"), 16) % 36525


def key_fingerprint(key: bytes) -> str:
    """A number by which a store knows its key again, and which says nothing about the key."""
    return _digest(key, "fingerprint")


def fingerprint(key: bytes, what: str, paths: Iterable[Path | None]) -> str:
    """A number by which a store knows places again (its source, itself) without telling them.

    Args:
        key: of the store.
        what: what the places are; the same places as something else have another number.
        paths: in a fixed order, `None` for one that is not used.
    """
    places = [os.path.realpath(path) if path is not None else None for path in paths]
    return _digest(key, f"fingerprint of {what}\0{json.dumps(places)}")


def load_or_create_key(path: Path) -> bytes:
    """Read the secret key, or make one that only its owner can read (mode 0600, its folder 0700).

    Raises:
        InputError: when others can read the file, or when it does not hold a key.
    """
    try:
        return load_key(path)
    except FileNotFoundError:
        make_private_folder(path.parent)
        key = secrets.token_bytes(KEY_BYTES)
        write_private(path, key.hex().encode() + b"\n")
        return key


def load_key(path: Path) -> bytes:
    """Read the secret key.

    Raises:
        FileNotFoundError: when there is none.
        InputError: when others can read the file, or when it does not hold a key.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would be waited for, a device read without an end
            raise InputError(f"{path}: is no file; name the file that holds the key")
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(f"{path}: others can read this key; make it yours alone with `chmod 600 {path}`")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a key file; put the key back, or name another file") from error
    if len(key) != KEY_BYTES:
        raise InputError(
            f"{path}: a key has {2 * KEY_BYTES} hexadecimal digits; put the key back, or name another file"
        )
    return key


def make_private_folder(path: Path) -> None:
    """Create a folder that only its owner can enter (mode 0700), with its parents.

    Raises:
        InputError: when it is there already and others can enter it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    check_private_folder(path)


def check_private_folder(path: Path) -> None:
    """Refuse a folder that others can enter or list; one that is not there passes.

    Raises:
        InputError: it names the folder and the command that closes it.
    """
    if path.is_dir() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"{path}: others can enter this private folder; make it yours alone with `chmod 700 {path}`")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read (mode 0600), whole or not at all."""
    write_atomically(path, content, mode=0o600)


def _digest(key: bytes, message: str) -> str:
    return hmac.new(key, message.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:PSEUDONYM_DIGITS]
