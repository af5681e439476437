"""To and from a hospital archive over the DICOM network: results out, a day's chest radiographs in.

After and before `predict`. `send_files` stores DICOM objects (C-STORE, PS3.4 annex B) as they are, compressed or not;
the others come from `archive_fetch` and `archive_peer`. No message holds an identifier. Needs the optional pynetdicom:
import this module only where an archive is asked for.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset, uid

from pipelines.archive_fetch import Fetched, fetch_day, file_name
from pipelines.archive_peer import BROKEN_OFF, IMPLICIT, Connection, Context, Peer, accepts, echo, parse_peer
from preprocessing.dicom import read_dicom
from preprocessing.errors import UnusableFile
from preprocessing.header_values import caught_warnings, text

if TYPE_CHECKING:
    from pynetdicom.association import Association

__all__ = ["Fetched", "Peer", "echo", "fetch_day", "file_name", "parse_peer", "send_files"]

CONVERTIBLE = frozenset({uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian})
"""Transfer syntaxes that can be sent in the default one, pixels unchanged, to archives that take no other."""

STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007, 0x0111})
"""Statuses: stored as it is, stored with changes or doubts, there already (PS3.4 table B.2-1, PS3.7 annex C)."""

REFUSALS = {
    0x0: "it does not take such an object, or not from this AE title",
    0xA: "it is out of disk space or another resource, or the object is not what it says it is",
    0xC: "it cannot understand the object",
}
"""What is wrong, by the first digit of the status."""


def send_files(files: Iterable[Path], peer: Peer, calling_aet: str) -> Iterator[tuple[Path, str]]:
    """Store DICOM files in an archive, one after the other; sending one twice does no harm.

    Files go in their own transfer syntax; uncompressed ones in the default one if the archive takes only that.

    Args:
        files: drawn one by one.
        peer: the archive.
        calling_aet: AE title of this machine.

    Yields:
        Each file, in order, with "" if it is stored, or else a short reason.

    Raises:
        InputError: the archive is not there or refuses the connection, at the start or for good in between.
    """
    with Connection(peer, calling_aet) as connection:
        for path in files:
            yield path, _send(connection, path)


def _send(connection: Connection, path: Path) -> str:
    try:
        dataset = read_dicom(path)
    except UnusableFile as unusable:
        return unusable.detail
    kind, instance = text(dataset, "SOPClassUID"), text(dataset, "SOPInstanceUID")
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    if not (kind and instance and syntax):
        return "the file does not say its SOP class, its SOP instance or its transfer syntax"
    contexts = {(kind, syntax), (kind, IMPLICIT if syntax in CONVERTIBLE else syntax)}
    reason = connection.ask(contexts, partial(_store, dataset, contexts))
    return BROKEN_OFF if reason is None else reason


def _store(dataset: Dataset, contexts: set[Context], association: "Association") -> str | None:
    """Store an object; returns "" or a reason, None if the association ended before the answer."""
    if not accepts(association, contexts):
        return f"the archive does not accept {dataset.SOPClassUID.name} in {dataset.file_meta.TransferSyntaxUID.name}"
    try:
        with caught_warnings():
            status = association.send_c_store(dataset).get("Status")
    except (AttributeError, ValueError):
        return "the file cannot be encoded for the network: it is damaged, or not in the transfer syntax that it names"
    if status is None or status in STORED:
        return None if status is None else ""
    return f"the archive refuses it: {REFUSALS.get(status >> 12, 'it does not say why')} (status {status:04X})"
