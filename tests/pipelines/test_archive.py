"""To and from a hospital archive: a real Orthanc server, and small peers that refuse, break off or keep silent."""

import importlib
import logging
import os
import re
import shutil
import socket
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from orthanc import FETCHER, Orthanc, free_port, running_orthanc
from pydicom import Dataset, dcmread, uid

from preprocessing.errors import InputError
from preprocessing.phantoms import DIFFICULTIES, write_phantoms

pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra `dicom-output`)")

import pipelines.archive_peer  # noqa: E402 -- needs pynetdicom
from pipelines.archive import Fetched, Peer, echo, fetch_day, file_name, parse_peer, send_files  # noqa: E402

EVER = "19000101-20991231"
STORE = pynetdicom.evt.EVT_C_STORE
FIND, GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"
VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def orthanc(server: Orthanc) -> Orthanc:
    server.clear()
    return server


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Some ten images, CR and DX, in all transfer syntaxes that phantoms have."""
    out = tmp_path_factory.mktemp("phantoms") / "out"
    write_phantoms(out, studies=8, size=64, seed=1, difficulty=DIFFICULTIES["easy"])
    return sorted((out / "dicom").rglob("*.dcm"))


def sent(files: list[Path], peer: Peer) -> list[str]:
    """Reasons, in the order of the files."""
    outcomes = list(send_files(iter(files), peer, "TESTER"))
    assert [path for path, _ in outcomes] == files
    return [reason for _, reason in outcomes]


def changed(source: Path, path: Path, **elements: Any) -> Path:
    """A copy as an object of its own, in a study of its own unless it is given one."""
    dataset = dcmread(source)
    elements = {"StudyInstanceUID": uid.generate_uid(), "SeriesInstanceUID": uid.generate_uid()} | elements
    for keyword, value in ({"SOPInstanceUID": uid.generate_uid()} | elements).items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path)
    return path


def instance(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def by_instance(files: list[Path]) -> dict[str, Dataset]:
    return {str(dataset.SOPInstanceUID): dataset for dataset in map(dcmread, files)}


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("pacs.example.org:104:ARCHIVE", Peer("pacs.example.org", 104, "ARCHIVE")),
        ("10.0.0.7:65535: My Pacs ", Peer("10.0.0.7", 65535, "My Pacs")),
        ("[fe80::1:2]:11112:A:B", Peer("fe80::1:2", 11112, "A:B")),
    ],
)
def test_an_archive_is_named_by_host_port_and_title(text: str, peer: Peer) -> None:
    assert parse_peer(text) == peer
    assert parse_peer(str(peer)) == peer


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("pacs:104", "HOST:PORT:AET"),
        (":104:ARCHIVE", "HOST:PORT:AET"),
        ("::1:104:ARCHIVE", "brackets"),
        ("pacs:0:ARCHIVE", "1 to 65535"),
        ("pacs:65536:ARCHIVE", "1 to 65535"),
        ("pacs:١٠٤:ARCHIVE", "1 to 65535"),
        ("pacs:104:", "1 to 16"),
        ("pacs:104:  ", "1 to 16"),
        ("pacs:104:SEVENTEEN_LETTERS", "1 to 16"),
        ("pacs:104:A\\B", "backslash"),
        ("pacs:104:ÄRCHIV", "ASCII"),
        ("pacs:104:A\n", "ASCII"),
    ],
)
def test_what_names_no_archive_is_refused(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        parse_peer(text)


def test_what_is_sent_is_in_the_archive_and_comes_back(
    orthanc: Orthanc,
    phantoms: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    peer = parse_peer(orthanc.address)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"<html>")
    assert sent([*phantoms[:3], broken, tmp_path / "none.dcm", *phantoms[3:], phantoms[0]], peer) == [
        *[""] * 3,
        "neither a DICM prefix nor a data element at the start",
        "there is no such file, or it vanished while the job ran",
        *[""] * (len(phantoms) - 2),
    ]
    sources = by_instance(phantoms)
    assert orthanc.instances() == sorted(sources)

    steps: list[tuple[int, int | None]] = []
    folder = tmp_path / "new" / "day"
    count = len(phantoms)
    fetched = fetch_day(peer, EVER, folder, "TESTER", lambda done, total: steps.append((done, total)))
    assert fetched == Fetched(count, count, 0)
    assert steps == [(done, count) for done in range(count + 1)]
    assert {path.name for path in folder.iterdir()} == set(map(file_name, sources))
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    arrived = by_instance(list(folder.iterdir()))
    assert arrived == sources
    syntaxes = {name: dataset.file_meta.TransferSyntaxUID for name, dataset in sources.items()}
    assert {name: dataset.file_meta.TransferSyntaxUID for name, dataset in arrived.items()} == syntaxes
    assert len(set(syntaxes.values())) == 7
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_only_what_is_missing_is_fetched(orthanc: Orthanc, phantoms: list[Path], tmp_path: Path) -> None:
    peer = parse_peer(orthanc.address)
    assert set(sent(phantoms[:4], peer)) == {""}
    fetch_day(peer, EVER, tmp_path, "TESTER")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    first, second, *others = before
    first.unlink()
    second.unlink()
    old, young = tmp_path / ".a.dcm.0.tmp", tmp_path / ".b.dcm.0.tmp"
    for leftover in (old, young):
        leftover.touch()
    os.utime(old, (0, 0))
    assert fetch_day(peer, EVER, tmp_path, "TESTER") == Fetched(4, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in others} == {path: before[path] for path in others}
    assert set(tmp_path.iterdir()) == {*before, young}
    assert fetch_day(peer, EVER, tmp_path, "TESTER") == Fetched(4, 0, 4)


def test_a_day_is_its_chest_radiographs(orthanc: Orthanc, phantoms: list[Path], tmp_path: Path) -> None:
    source, study = phantoms[0], uid.generate_uid()
    day = {"StudyInstanceUID": study, "StudyDate": "20261125"}
    parts = {
        "chest": {"Modality": "CR", "BodyPartExamined": "CHEST", **day},
        "unnamed": {"Modality": "DX", "BodyPartExamined": "", **day},
        "film": {"Modality": "RG", "BodyPartExamined": "THORAX PA", "StudyDate": "20261125"},
        "hand": {"Modality": "DX", "BodyPartExamined": "HAND", **day},
        "tomography": {"Modality": "CT", "BodyPartExamined": "CHEST", "SOPClassUID": uid.CTImageStorage, **day},
        "ultrasound": {"Modality": "US", "BodyPartExamined": "CHEST", "StudyDate": "20261125"},
        "day before": {"Modality": "DX", "BodyPartExamined": "CHEST", "StudyDate": "20261124"},
        "day after": {"Modality": "DX", "BodyPartExamined": "CHEST", "StudyDate": "20261126"},
    }
    made = {name: changed(source, tmp_path / name, **elements) for name, elements in parts.items()}
    peer = parse_peer(orthanc.address)
    assert set(sent(list(made.values()), peer)) == {""}

    def fetched(day: str) -> set[str]:
        folder = tmp_path / day
        assert fetch_day(peer, day, folder, "TESTER").failed == {}
        names = {instance(path): name for name, path in made.items()}
        return {names[instance(path)] for path in folder.iterdir()}

    assert fetched("20261125") == {"chest", "unnamed", "film"}
    assert fetched("20261124-20261125") == {"chest", "unnamed", "film", "day before"}
    assert fetched("20261127") == set()


@pytest.mark.parametrize("day", ["2026-11-25", "20260230", "20261125-", "20261125-20261124", "2026112٥", "*", ""])
def test_what_is_no_day_is_refused_before_the_archive_is_asked(day: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="date"):
        fetch_day(Peer("127.0.0.1", free_port(), "NONE"), day, tmp_path / "new", "TESTER")
    assert not (tmp_path / "new").exists()


def test_compressed_images_travel_as_they_are_stored(orthanc: Orthanc, shared_data: Path, tmp_path: Path) -> None:
    names = ["RG3_JPLY", "RG3_JPLL", "RG3_JLSN", "RG3_J2KI", "RG3_RLE", "Fake_MONOHR1"]
    files = [changed(shared_data / f"dicom_real/{name}.dcm", tmp_path / name, BodyPartExamined="") for name in names]
    peer = parse_peer(orthanc.address)
    assert set(sent(files, peer)) == {""}
    sources = by_instance(files)
    held = {
        found["MainDicomTags"]["SOPInstanceUID"]: orthanc.bytes(f"/instances/{found['ID']}/metadata/TransferSyntax")
        for found in orthanc.ask("/instances?expand")
    }
    assert held == {name: dataset.file_meta.TransferSyntaxUID.encode() for name, dataset in sources.items()}
    assert fetch_day(peer, EVER, tmp_path / "in", "TESTER").failed == {}
    arrived = by_instance(list((tmp_path / "in").iterdir()))
    assert len(arrived) == len(names)
    for name, dataset in sources.items():
        assert arrived[name].file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
        assert arrived[name].PixelData == dataset.PixelData


def test_an_archive_may_send_to_a_port_instead(orthanc: Orthanc, phantoms: list[Path], tmp_path: Path) -> None:
    peer = parse_peer(orthanc.address)
    files = phantoms[:4]
    assert set(sent(files, peer)) == {""}
    assert fetch_day(peer, EVER, tmp_path / "a", FETCHER, listen_port=orthanc.listen_port) == Fetched(4, 4, 0)
    assert by_instance(list((tmp_path / "a").iterdir())) == by_instance(files)
    stranger = fetch_day(peer, EVER, tmp_path / "b", "STRANGER", listen_port=orthanc.listen_port)
    assert (stranger.fetched, list(stranger.failed.values())) == (0, [4])
    assert "register STRANGER" in next(iter(stranger.failed))
    with socket.create_server(("", orthanc.listen_port)), pytest.raises(InputError, match="cannot be listened to"):
        fetch_day(peer, EVER, tmp_path / "c", FETCHER, listen_port=orthanc.listen_port)


def test_a_folder_that_cannot_be_written_ends_the_job(orthanc: Orthanc, phantoms: list[Path], tmp_path: Path) -> None:
    peer = parse_peer(orthanc.address)
    assert set(sent(phantoms[:2], peer)) == {""}
    folder = tmp_path / "in"
    with pytest.raises(FileNotFoundError):
        fetch_day(peer, EVER, folder, "TESTER", lambda done, total: shutil.rmtree(folder, True))


def test_each_way_of_not_getting_through_has_its_sentence(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = parse_peer(orthanc.address)
    echo(peer, "TESTER")
    web = int(orthanc.rest.rpartition(":")[2])
    for wrong, sentence in (
        (Peer(peer.host, peer.port, "WRONG"), "does not answer to the AE title WRONG"),
        (Peer(peer.host, free_port(), "ORTHANC"), "nothing takes a connection within 10 seconds"),
        (Peer("archive.invalid", 104, "ORTHANC"), "there is no host of that name"),
        (Peer(peer.host, web, "ORTHANC"), "no DICOM answer"),
    ):
        for attempt in (
            lambda wrong=wrong: echo(wrong, "TESTER"),
            lambda wrong=wrong: fetch_day(wrong, EVER, tmp_path, "TESTER"),
        ):
            with pytest.raises(InputError, match=f"{wrong}.*{sentence}"):
                attempt()
    monkeypatch.setattr(pipelines.archive_peer, "NETWORK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match=r"within 0\.5 seconds"):
        echo(Peer("127.0.0.1", silent.getsockname()[1], "SILENT"), "TESTER")
    with pytest.raises(InputError, match="AE title"):
        echo(peer, "NOT AN AE TITLE AT ALL")


def test_a_refusal_is_heard_however_quickly_it_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hasty:

        def refuse() -> None:
            for _ in range(100):
                caller = hasty.accept()[0]
                caller.sendall(bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2]))  # A-ASSOCIATE-RJ, PS3.8 table 9-21
                caller.recv(4096)
                caller.close()

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        peer = Peer("127.0.0.1", hasty.getsockname()[1], "HASTY")
        for _ in range(100):
            with pytest.raises(InputError, match="as many connections as it takes"):
                echo(peer, "TESTER")
        thread.join()


Handler = Callable[[Any], Any]


@contextmanager
def small_archive(
    kinds: dict[str, list[str]], *handlers: tuple[Any, Handler], port: int = 0, known: tuple[str, ...] = ()
) -> Iterator[Peer]:
    """A peer that takes SOP classes in transfer syntaxes, and does what the handlers say."""
    entity = pynetdicom.AE("SMALL")
    entity.require_calling_aet = list(known)
    for kind, syntaxes in kinds.items():
        # Both roles: C-GET has the requestor store, too.
        entity.add_supported_context(kind, syntaxes, scu_role=True, scp_role=True)
    port = port or free_port()
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=list(handlers))
    try:
        yield Peer("127.0.0.1", port, "SMALL")
    finally:
        entity.shutdown()


PLAIN = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
CAPTURES = {VERIFICATION: PLAIN, uid.SecondaryCaptureImageStorage: PLAIN}


@pytest.fixture
def captures(tmp_path: Path) -> list[Path]:
    return [capture(tmp_path / str(number), f"1.2.3.{number}") for number in range(12)]


def capture(path: Path, name: str, kind: str = uid.SecondaryCaptureImageStorage, syntax: str = PLAIN[0]) -> Path:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientName = kind, name, "Doe^Jane"
    dataset.file_meta = pynetdicom.dsutils.create_file_meta(
        sop_class_uid=kind, sop_instance_uid=name, transfer_syntax=uid.UID(syntax)
    )
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_an_archive_that_drops_the_connection_gets_the_rest_over_a_new_one(captures: list[Path]) -> None:
    stored: list[str] = []
    stores: Counter[Any] = Counter()

    def store(event: Any) -> int:
        name = event.request.AffectedSOPInstanceUID
        stores[event.assoc] += 1
        if stores[event.assoc] > 3 or name == "1.2.3.5":
            event.assoc.abort()
        else:
            stored.append(name)
        return 0

    with small_archive(CAPTURES, (STORE, store)) as peer:
        reasons = sent(captures, peer)
    assert stored == [f"1.2.3.{number}" for number in range(12) if number != 5]
    assert [bool(reason) for reason in reasons] == [number == 5 for number in range(12)]
    assert reasons[5].startswith("the archive broke off the connection each time")


def test_an_archive_that_is_gone_for_good_ends_the_job(captures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.archive_peer, "PAUSES", (0.1,))
    with small_archive(CAPTURES, (STORE, lambda event: 0)) as peer:
        outcomes = send_files(captures, peer, "TESTER")
        assert next(outcomes) == (captures[0], "")
    with pytest.raises(InputError, match="nothing takes a connection"):
        next(outcomes)


def test_an_archive_that_comes_back_gets_the_rest(captures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.archive_peer, "PAUSES", (0.1, 0.5, 5))
    with small_archive(CAPTURES, (STORE, lambda event: 0)) as peer:
        outcomes = send_files(captures, peer, "TESTER")
        next(outcomes)
    again = small_archive(CAPTURES, (STORE, lambda event: 0), port=peer.port)
    restart = threading.Timer(0.3, again.__enter__)
    restart.start()
    try:
        assert [reason for _, reason in outcomes] == [""] * 11
    finally:
        restart.join()
        again.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0x0000, ""),
        (0xB000, ""),  # stored, elements coerced
        (0xB007, ""),
        (0x0111, ""),  # there already
        (0xA700, "out of disk space.*A700"),
        (0xA900, "not what it says it is.*A900"),
        (0xC123, "cannot understand.*C123"),
        (0x0124, "this AE title.*0124"),
        (0x7777, "7777"),
    ],
)
def test_what_the_archive_answers_is_told(status: int, words: str, captures: list[Path]) -> None:
    with small_archive(CAPTURES, (STORE, lambda event: status)) as peer:
        first, second = sent(captures[:2], peer)
    assert first == second
    assert re.search(words, first) if words else first == ""
    assert "1.2.3" not in first


def test_kinds_that_the_archive_does_not_take_cost_only_themselves(captures: list[Path], tmp_path: Path) -> None:
    report = capture(tmp_path / "report", "1.2.4", uid.BasicTextSRStorage)
    packed = capture(tmp_path / "packed", "1.2.5", syntax=uid.JPEG2000)
    inflated = capture(tmp_path / "inflated", "1.2.6", syntax=uid.DeflatedExplicitVRLittleEndian)
    unnamed = capture(tmp_path / "unnamed", "1.2.7")
    unnamed.write_bytes(unnamed.read_bytes().replace(b"\x08\0\x18\0UI", b"\x08\0\x19\0UI"))
    stored: dict[str, Dataset] = {}

    def store(event: Any) -> int:
        stored[event.request.AffectedSOPInstanceUID] = event.dataset
        return 0

    with small_archive({uid.SecondaryCaptureImageStorage: [uid.ImplicitVRLittleEndian]}, (STORE, store)) as peer:
        reasons = sent([captures[0], report, packed, inflated, unnamed, captures[1]], peer)
    assert reasons == [
        "",
        "the archive does not accept Basic Text SR Storage in Explicit VR Little Endian",
        "the archive does not accept Secondary Capture Image Storage in JPEG 2000 Image Compression",
        "",
        "the file does not say its SOP class, its SOP instance or its transfer syntax",
        "",
    ]
    assert list(stored) == ["1.2.3.0", "1.2.6", "1.2.3.1"]
    assert {str(dataset.PatientName) for dataset in stored.values()} == {"Doe^Jane"}


def test_an_association_grows_by_what_is_sent_and_not_beyond_its_limit(captures: list[Path], tmp_path: Path) -> None:
    proposed: list[int] = []
    requested = (
        pynetdicom.evt.EVT_REQUESTED,
        lambda event: proposed.append(len(event.assoc.requestor.requested_contexts)),
    )
    report = capture(tmp_path / "report", "1.2.4", uid.BasicTextSRStorage)
    kinds = CAPTURES | {uid.BasicTextSRStorage: PLAIN}
    with small_archive(kinds, (STORE, lambda event: 0), requested) as peer:
        assert sent([captures[0], report] * 4, peer) == [""] * 8
        assert proposed == [3, 5]  # verification, and each kind in its own transfer syntax and in the default one
        proposed.clear()
        many = [(uid.SecondaryCaptureImageStorage, f"1.2.3.{number}") for number in range(127)]
        with pipelines.archive_peer.Connection(peer, "TESTER") as connection:
            for contexts in (many[:100], many[90:], many[:100], [(uid.BasicTextSRStorage, PLAIN[0])]):
                assert connection.ask(contexts, lambda association: True)
    assert proposed == [101, 128, 2]


def find_one(event: Any) -> Iterator[tuple[int, Dataset]]:
    """Answers each search with one image."""
    match = Dataset()
    match.StudyInstanceUID, match.SeriesInstanceUID, match.SOPInstanceUID = "1.2", "1.2.3", "1.2.3.4"
    match.Modality = "DX"
    yield 0xFF00, match


SEARCH = (pynetdicom.evt.EVT_C_FIND, find_one)


def test_what_the_archive_does_not_offer_is_told(tmp_path: Path) -> None:
    with small_archive({VERIFICATION: PLAIN}) as peer, pytest.raises(InputError, match="not offer C-FIND"):
        fetch_day(peer, EVER, tmp_path, "TESTER")
    with small_archive({VERIFICATION: PLAIN, FIND: PLAIN}, SEARCH) as peer:
        with pytest.raises(InputError, match=r"not offer C-GET .* TESTER; .*C-MOVE"):
            fetch_day(peer, EVER, tmp_path, "TESTER")
        with pytest.raises(InputError, match=r"not offer C-MOVE .*register TESTER"):
            fetch_day(peer, EVER, tmp_path, "TESTER", listen_port=free_port())
    with (
        small_archive({uid.MRImageStorage: PLAIN}) as peer,
        pytest.raises(InputError, match=r"offers nothing .* TESTER"),
    ):
        echo(peer, "TESTER")
    with small_archive(CAPTURES, known=("KNOWN",)) as peer, pytest.raises(InputError, match="register that title"):
        echo(peer, "TESTER")


def test_what_was_not_asked_for_is_not_written(tmp_path: Path) -> None:
    def get(event: Any) -> Iterator[Any]:
        yield 1
        yield 0xFF00, dcmread(capture(tmp_path / "other", "1.2.3.5"))

    kinds = CAPTURES | {FIND: PLAIN, GET: PLAIN}
    with small_archive(kinds, SEARCH, (pynetdicom.evt.EVT_C_GET, get)) as peer:
        fetched = fetch_day(peer, EVER, tmp_path / "in", "TESTER")
    assert (fetched.fetched, list(fetched.failed.values())) == (0, [1])
    assert list((tmp_path / "in").iterdir()) == []


def test_without_pynetdicom_the_package_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    for name in ("archive", "archive_fetch", "archive_peer"):
        monkeypatch.delitem(sys.modules, f"pipelines.{name}")
    with pytest.raises(InputError, match=r"pip install 'cxr-local-mi\[dicom-output\]'"):
        importlib.import_module("pipelines.archive")
