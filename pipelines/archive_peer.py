"""A hospital archive as a DICOM peer: its address, and a connection that survives being dropped.

Below `archive` and `archive_fetch`, which store, find and fetch over it. A connection is one association (PS3.8) at a
time: opened when a request needs it, opened anew when the archive has dropped it or another kind of object is to be
sent. Needs the optional pynetdicom: import this module only where an archive is asked for.
"""

import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, cast

from preprocessing.errors import InputError

try:
    from pynetdicom import AE, build_context, build_role, evt
    from pynetdicom.association import Association
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.pdu_primitives import A_ASSOCIATE
except ImportError:
    raise InputError(
        "talking to an archive needs the package pynetdicom; install it: pip install 'cxr-local-mi[dicom-output]'"
    ) from None

# Its messages hold names and identifiers of patients.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

CONNECT_SECONDS = 10.0
"""For the archive to take the connection."""

NETWORK_SECONDS = 60.0
"""For each answer of the archive, and for a connection to be idle."""

PAUSES = (1.0, 5.0, 15.0)
"""Seconds before an archive that dropped the connection and does not take a new one is tried again."""

ATTEMPTS = 2
"""For a request during which the archive breaks off: there are objects on which it does so each time."""

MOST_CONTEXTS = 128
"""Presentation contexts in an association: their identifiers are the odd numbers of a byte (PS3.8 section 9.3.2.2)."""

PDU_BYTES = 1 << 18
"""Largest part of a message that the archive may send; with the usual 16 KB, fetching takes half as long again."""

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
"""The transfer syntax that every peer knows."""

BROKEN_OFF = "the archive broke off the connection each time, or gave no answer"

Context = tuple[str, str]
"""UIDs of a SOP class and of one transfer syntax."""

Take = Callable[[str, bytes], int]
"""What is done with an object that the archive sends: SOP Instance UID and file content in, status (PS3.7 C) out."""

Answer = TypeVar("Answer")

_REJECTIONS = {
    (1, 3): "it does not know the AE title {calling}: have its administrator register that title with the address of "
    "this machine, or give the title that is registered",
    (1, 7): "it does not answer to the AE title {called}: ask its administrator for the right one",
    (3, 1): "it is busy: try again later",
    (3, 2): "it has as many connections as it takes: try again later",
}
"""What a rejection's source and reason mean (PS3.8 table 9-21)."""


@dataclass(frozen=True)
class Peer:
    """Where an archive listens, and the AE title that it answers to."""

    host: str
    port: int
    aet: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{self.aet}"


def parse_peer(text: str) -> Peer:
    """Read `HOST:PORT:AET`; an IPv6 address stands in brackets.

    Raises:
        InputError: it is not of that form.
    """
    form = f"archive {text!r}: give HOST:PORT:AET, for instance pacs.example.org:104:ARCHIVE"
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\s\[\]]+):([^:]*):(.*)", text, re.DOTALL)
    if not parts:
        raise InputError(f"{form}; an IPv6 address in brackets: [::1]:104:ARCHIVE")
    host, port, aet = parts.groups()
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise InputError(f"{form}; the port is a number from 1 to 65535")
    return Peer(host.strip("[]"), int(port), checked_aet(aet))


def checked_aet(aet: str) -> str:
    """An AE title without its padding (PS3.5 table 6.2-1).

    Raises:
        InputError: empty, too long, or with characters that it may not have.
    """
    aet = aet.strip(" ")
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", aet):
        raise InputError(f"AE title {aet!r}: give 1 to 16 ASCII characters, none of them a backslash")
    return aet


class Connection:
    """Associations with an archive, one after the other; a context manager that releases the last one.

    Args:
        peer: the archive.
        calling_aet: AE title of this machine.
        taken: SOP classes that the archive may store here over the connection, as it does to answer a C-GET.
        take: what is done with such an object.
    """

    def __init__(
        self, peer: Peer, calling_aet: str, taken: Iterable[str] = (), take: Take = lambda instance, content: 0x0122
    ) -> None:
        self.peer = peer
        self.calling_aet = checked_aet(calling_aet)
        self._roles = [build_role(uid, scp_role=True) for uid in taken]
        self._take = take
        self._proposed: frozenset[Context] = frozenset()
        self._association: Association | None = None
        self._has_been_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind and not issubclass(kind, (Exception, GeneratorExit)) and self._association:
            self._association.abort()  # interrupted, perhaps within a message: the archive would wait for its end
        self._close()

    def ask(self, contexts: Iterable[Context], request: Callable[[Association], Answer | None]) -> Answer | None:
        """Make a request, and once more on a new association if the archive breaks off.

        Args:
            contexts: what the request needs; those of earlier requests are kept as far as there is room.
            request: returns None if the association ended before the answer.

        Returns:
            The answer; None if the archive broke off each time.

        Raises:
            InputError: no association could be opened: why, and what to do.
        """
        for _ in range(ATTEMPTS):
            with suppress(RuntimeError):  # pynetdicom's word for an association that is not there any more
                answer = request(self._ready(frozenset(contexts)))
                if answer is not None:
                    return answer
            self._association = None  # it may look established for a moment longer
        return None

    def _ready(self, needed: frozenset[Context]) -> Association:
        if self._association and self._association.is_established and needed <= self._proposed:
            return self._association
        self._close()
        together = self._proposed | needed
        self._proposed = together if len(together) < MOST_CONTEXTS else needed
        self._association = self._opened_again() if self._has_been_open else self._opened()
        self._has_been_open = True
        return self._association

    def _opened_again(self) -> Association:
        for pause in PAUSES:
            with suppress(InputError):
                return self._opened()
            time.sleep(pause)
        return self._opened()

    def _opened(self) -> Association:
        connected: list[evt.Event] = []
        # Verification is what every archive accepts: one that takes nothing else can still say so.
        contexts = [build_context(*context) for context in sorted(self._proposed | {(VERIFICATION, IMPLICIT)})]
        try:
            association = _application_entity(self.calling_aet).associate(
                self.peer.host,
                self.peer.port,
                contexts,
                self.peer.aet,
                PDU_BYTES,
                list(self._roles),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, connected.append),
                    (evt.EVT_CONN_OPEN, _hurry),
                    _store_handler(self._take),
                ],
            )
        except OSError:  # of the resolver
            raise InputError(f"archive {self.peer}: there is no host of that name; check it") from None
        if not association.is_established:
            raise InputError(f"archive {self.peer}: {self._why_not(association, bool(connected))}")
        return association

    def _why_not(self, association: Association, is_connected: bool) -> str:
        """What to tell of an association that did not come about."""
        if not is_connected:
            return (
                f"nothing takes a connection within {CONNECT_SECONDS:g} seconds; check host and port, that the archive "
                "runs, and that no firewall is between"
            )
        # A refusal that comes and goes quickly is still in the queue: pynetdicom takes it for a lost connection.
        answer = association.acceptor.primitive or association.dul.receive_pdu()
        if isinstance(answer, A_ASSOCIATE) and answer.result:
            key = (answer.result_source or 0, answer.diagnostic or 0)
            reason = _REJECTIONS.get(key, f"source {key[0]}, reason {key[1]}; its administrator finds more in its log")
            return f"it refuses the connection: {reason.format(calling=self.calling_aet, called=self.peer.aet)}"
        if association.rejected_contexts:
            return (
                f"it offers nothing of what is asked for to the AE title {self.calling_aet}; ask its administrator for "
                "the permission"
            )
        return (
            f"it takes the connection and gives no DICOM answer within {NETWORK_SECONDS:g} seconds; check the port, "
            "and whether the archive wants TLS, which is not supported"
        )

    def _close(self) -> None:
        if self._association and self._association.is_established:
            self._association.release()


@contextmanager
def listening(aet: str, port: int, taken: Iterable[str], syntaxes: Iterable[str], take: Take) -> Iterator[None]:
    """Take what is sent to a port of this machine, which is how an archive answers a C-MOVE.

    Args:
        aet: AE title of this machine; senders may call it by any.
        port: on all its addresses.
        taken: SOP classes, each in all of the transfer syntaxes.
        syntaxes: transfer syntaxes.
        take: what is done with an object; called from other threads.

    Raises:
        InputError: the port is taken, or not for this user.
    """
    entity = _application_entity(checked_aet(aet))
    entity.supported_contexts = [build_context(kind, list(syntaxes)) for kind in taken]
    try:
        entity.start_server(("", port), block=False, evt_handlers=[_store_handler(take)])
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} of this machine cannot be listened to ({error}); give another") from None
    try:
        yield
    finally:
        entity.shutdown()


def _hurry(event: evt.Event) -> None:
    """Send without delay: a request is two messages, and the second would wait 40 ms (Nagle's algorithm)."""
    connection = event.assoc.dul.socket
    if connection and connection.socket:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _store_handler(take: Take) -> tuple[evt.EventType, Callable[[evt.Event], int]]:
    def handle(event: evt.Event) -> int:
        return take(str(cast(C_STORE, event.request).AffectedSOPInstanceUID), event.encoded_dataset())

    return evt.EVT_C_STORE, handle


def _application_entity(aet: str) -> AE:
    """This machine under an AE title, with the limits of this module."""
    entity = AE(aet)
    entity.maximum_pdu_size = PDU_BYTES
    entity.connection_timeout = CONNECT_SECONDS
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = NETWORK_SECONDS
    return entity


def accepts(association: Association, contexts: Iterable[Context]) -> bool:
    """Whether the archive accepted one of the contexts."""
    accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts}
    return not accepted.isdisjoint(contexts)


def echo(peer: Peer, calling_aet: str) -> None:
    """Ask an archive whether it is there (C-ECHO).

    Raises:
        InputError: it is not, or does not want to: why, and what to do.
    """
    with Connection(peer, calling_aet) as connection:
        status = connection.ask((), lambda association: association.send_c_echo().get("Status"))
    if status != 0:
        answer = "no answer" if status is None else f"status {status:04X}"
        raise InputError(f"archive {peer}: it takes connections, but a C-ECHO gets {answer}; ask its administrator")
