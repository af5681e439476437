"""A day's chest radiographs out of a hospital archive: found by C-FIND, sent by C-GET or C-MOVE (PS3.4 annex C).

Before `predict`, over the connection of `archive_peer`. Images arrive as they are stored, compressed or not, one at a
time. File names are hashes, and no message holds an identifier. What the header says of modality and body part is all
that is known here; `preprocessing.selection` looks at the files themselves later.
"""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset, uid

from pipelines.archive_peer import BROKEN_OFF, IMPLICIT, Connection, Context, Peer, accepts, listening
from preprocessing.errors import InputError
from preprocessing.files import write_atomically
from preprocessing.header_values import caught_warnings, text
from preprocessing.selection import CHEST_WORDS, MODALITIES

if TYPE_CHECKING:
    from pynetdicom.association import Association

FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
"""SOP classes of query and retrieval, model Study Root."""

RADIOGRAPHS = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
)
"""SOP classes that are fetched."""

SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.RLELossless,
)
"""Transfer syntaxes in which they are: 8 classes times 15 leave room for the services in 128 contexts."""

FETCHED: frozenset[Context] = frozenset((kind, syntax) for kind in RADIOGRAPHS for syntax in SYNTAXES)
"""One syntax a context: of several in one, the archive would choose one for all objects and convert the others."""

SUCCESS, NO_RESOURCES, UNWANTED = 0x0000, 0xA700, 0xC000
NOT_OFFERED = frozenset({0x0122, 0x0124, 0x0211})
NO_SUCH_DESTINATION = 0xA801

LEFT_SECONDS = 3600.0
"""Age at which a temporary file is left over: writing an image takes seconds."""

OnProgress = Callable[[int, int | None], None]
Responses = Iterator[tuple[Dataset, Dataset | None]]


@dataclass(frozen=True)
class Fetched:
    """What became of a day's radiographs.

    Args:
        found: in the archive.
        fetched: now.
        already_there: fetched by an earlier run.
        failed: how many could not be fetched, by reason.
    """

    found: int
    fetched: int
    already_there: int
    failed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Image:
    """Unique keys of an image in the archive."""

    study: str
    series: str
    instance: str


@dataclass(frozen=True)
class _Inbox:
    """Where images that the archive sends are written, if they were asked for."""

    folder: Path
    wanted: frozenset[str]
    errors: list[OSError] = field(default_factory=list)

    def take(self, instance: str, content: bytes) -> int:
        if instance not in self.wanted:
            return UNWANTED
        try:
            write_atomically(self.folder / file_name(instance), content, 0o600)
        except OSError as error:  # kept for `_retrieve`: pynetdicom would swallow it
            self.errors.append(error)
            return NO_RESOURCES
        return SUCCESS


@dataclass(frozen=True)
class _Service:
    """A way to let the archive send.

    Args:
        name: for people.
        uid: its SOP class.
        contexts: that it needs.
        request: asks for what an identifier names.
        help: what to do where the archive does not offer it.
    """

    name: str
    uid: str
    contexts: frozenset[Context]
    request: "Callable[[Association, Dataset], Responses]"
    help: str


def file_name(instance: str) -> str:
    """File name of a fetched object: a hash of its SOP Instance UID, which itself would identify it."""
    return hashlib.sha256(instance.encode()).hexdigest()[:24] + ".dcm"


def fetch_day(
    peer: Peer,
    day: str,
    folder: Path,
    calling_aet: str,
    on_progress: OnProgress = lambda done, total: None,
    *,
    listen_port: int | None = None,
) -> Fetched:
    """Fetch the chest radiographs of a day that are not in the folder yet.

    Taken are series of modality CR, DX or RG whose body part is the chest or not given; `selection` looks at the files
    themselves later. A run that was killed is completed by the next one.

    Args:
        peer: the archive.
        day: of the study, `YYYYMMDD`, or a range `YYYYMMDD-YYYYMMDD`.
        folder: made if needed; one file an image, readable by this user only.
        calling_aet: AE title of this machine.
        on_progress: called with the images done, and their number.
        listen_port: of this machine, to which the archive sends the images (C-MOVE); over the connection that asks for
            them (C-GET) where None.

    Raises:
        InputError: the day is none; the archive is not there, refuses, or does not offer the service.
        OSError: a file cannot be written.
    """
    images = _find_images(peer, calling_aet, checked_day(day))
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    missing = [image for image in images if not (folder / file_name(image.instance)).exists()]
    there = len(images) - len(missing)
    outcomes: Counter[str] = Counter()
    on_progress(there, len(images))
    inbox = _Inbox(folder, frozenset(image.instance for image in missing))
    with _retrieval(peer, calling_aet, inbox, listen_port) as retrieve:
        for done, image in enumerate(missing, there + 1):
            outcomes[retrieve(image)] += 1
            on_progress(done, len(images))
    fetched = outcomes.pop("", 0)
    return Fetched(len(images), fetched, there, dict(outcomes))


def _sweep(folder: Path) -> None:
    """Remove what a killed run left, and nothing that another one is writing."""
    for leftover in folder.glob(".*.dcm.*.tmp"):  # names of `write_atomically`
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > LEFT_SECONDS:
                leftover.unlink()


def checked_day(day: str) -> str:
    """A day or range of days as the archive is asked for it.

    Raises:
        InputError: it is none.
    """
    try:
        if not re.fullmatch(r"[0-9]{8}(-[0-9]{8})?", day):
            raise ValueError
        days = [datetime.strptime(part, "%Y%m%d") for part in day.split("-")]
    except ValueError:
        raise InputError(f"date {day!r}: give a day as YYYYMMDD, or a range as YYYYMMDD-YYYYMMDD") from None
    if days != sorted(days):
        raise InputError(f"date {day!r}: the range ends before it begins; give the earlier day first")
    return day


def _find_images(peer: Peer, calling_aet: str, day: str) -> list[_Image]:
    images: dict[str, _Image] = {}
    with Connection(peer, calling_aet) as connection:
        for keys in _chest_series(connection, day):
            for image in _matches(connection, "IMAGE", **keys, SOPInstanceUID=""):
                instance = image["SOPInstanceUID"]
                images[instance] = _Image(keys["StudyInstanceUID"], keys["SeriesInstanceUID"], instance)
    return list(images.values())


def _chest_series(connection: Connection, day: str) -> Iterator[dict[str, str]]:
    """Keys of study and series, asked level by level as the model demands.

    Modality and body part are compared here: archives need not match them (PS3.4 C.6.2.1).
    """
    for study in _matches(connection, "STUDY", StudyDate=day, StudyInstanceUID="", ModalitiesInStudy=""):
        modalities = study["ModalitiesInStudy"]
        if modalities and MODALITIES.isdisjoint(modalities.split("\\")):
            continue
        keys = {"StudyInstanceUID": study["StudyInstanceUID"]}
        for series in _matches(connection, "SERIES", **keys, SeriesInstanceUID="", Modality="", BodyPartExamined=""):
            if _is_of_chest(series):
                yield keys | {"SeriesInstanceUID": series["SeriesInstanceUID"]}


def _is_of_chest(series: dict[str, str]) -> bool:
    body_part = series["BodyPartExamined"].upper()
    return series["Modality"] in MODALITIES and (not body_part or any(word in body_part for word in CHEST_WORDS))


def _matches(connection: Connection, level: str, **keys: str) -> list[dict[str, str]]:
    """Values of the keys in each match; those given are matched, the blank ones asked for. Unique keys are never blank.

    Raises:
        InputError: the archive does not answer, or does not want to.
    """
    answer = connection.ask({(FIND, IMPLICIT)}, partial(_find, _identifier(level, **keys)))
    if answer is None:
        raise InputError(f"archive {connection.peer}: {BROKEN_OFF} to the search; run again later")
    status, found = answer
    if status != SUCCESS:
        raise _not_offered(connection, f"C-FIND (status {status:04X})", "ask its administrator for the permission")
    with caught_warnings():
        matches = [{key: text(match, key) or value for key, value in keys.items()} for match in found]
    unique = [key for key in keys if key.endswith("InstanceUID")]
    return [match for match in matches if all(match[key] for key in unique)]


def _find(query: Dataset, association: "Association") -> tuple[int, list[Dataset]] | None:
    """Return the status with which the archive ends, and the matches; None if the association ended before it."""
    if not accepts(association, {(FIND, IMPLICIT)}):
        return min(NOT_OFFERED), []
    found = []
    status: int | None = None
    for response, match in association.send_c_find(query, FIND):
        status = response.get("Status")
        if match is not None:
            found.append(match)
    return None if status is None else (status, found)


def _identifier(level: str, **keys: str) -> Dataset:
    dataset = Dataset()
    with caught_warnings():
        for keyword, value in {"QueryRetrieveLevel": level, **keys}.items():
            setattr(dataset, keyword, value)
    return dataset


def _not_offered(connection: Connection, service: str, advice: str) -> InputError:
    return InputError(
        f"archive {connection.peer}: it does not offer {service} to the AE title {connection.calling_aet}; {advice}"
    )


@contextmanager
def _retrieval(
    peer: Peer, calling_aet: str, inbox: _Inbox, listen_port: int | None
) -> Iterator[Callable[[_Image], str]]:
    """Give the function that fetches an image and returns "" or a reason."""
    with ExitStack() as stack:
        if listen_port is None:
            connection = Connection(peer, calling_aet, RADIOGRAPHS, inbox.take)
            service = _get_service()
        else:
            stack.enter_context(listening(calling_aet, listen_port, RADIOGRAPHS, SYNTAXES, inbox.take))
            connection = Connection(peer, calling_aet)
            service = _move_service(connection.calling_aet)
        stack.enter_context(connection)
        yield partial(_retrieve, connection, inbox, service)


def _get_service() -> _Service:
    contexts = FETCHED | {(GET, IMPLICIT)}
    advice = "ask its administrator for it, or let it send to a port of this machine (C-MOVE)"
    return _Service("C-GET", GET, contexts, lambda association, query: association.send_c_get(query, GET), advice)


def _move_service(destination: str) -> _Service:
    def request(association: "Association", query: Dataset) -> Responses:
        return association.send_c_move(query, destination, MOVE)

    advice = f"ask its administrator to register {destination} with address and port of this machine"
    return _Service("C-MOVE", MOVE, frozenset({(MOVE, IMPLICIT)}), request, advice)


def _retrieve(connection: Connection, inbox: _Inbox, service: _Service, image: _Image) -> str:
    keys = {"StudyInstanceUID": image.study, "SeriesInstanceUID": image.series, "SOPInstanceUID": image.instance}
    status = connection.ask(service.contexts, partial(_last_status, service, _identifier("IMAGE", **keys)))
    if inbox.errors:
        raise inbox.errors[0]
    if status in NOT_OFFERED or status == NO_SUCH_DESTINATION:
        raise _not_offered(connection, f"{service.name} (status {status:04X})", service.help)
    if (inbox.folder / file_name(image.instance)).exists():
        return ""
    if status is None:
        return BROKEN_OFF
    return f"the archive did not send the image (status {status:04X}); if this is so for all, {service.help}"


def _last_status(service: _Service, query: Dataset, association: "Association") -> int | None:
    """Status with which the archive ends; None if the association ended before it."""
    if not accepts(association, {(service.uid, IMPLICIT)}):
        return min(NOT_OFFERED)
    status: int | None = None
    for response, _ in service.request(association, query):
        status = response.get("Status")
    return status
