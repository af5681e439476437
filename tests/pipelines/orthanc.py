"""A real archive for tests: an Orthanc server on loopback, on free ports, with its storage in a temporary folder."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
START_SECONDS = 60.0


@dataclass(frozen=True)
class Orthanc:
    """A running server.

    Args:
        address: HOST:PORT:AET of its DICOM side.
        rest: URL of its REST side, the independent witness of what it holds.
        listen_port: where it sends what `FETCHER` moves.
    """

    address: str
    rest: str
    listen_port: int

    def ask(self, path: str, query: Any = None) -> Any:
        return json.loads(self.bytes(path, None if query is None else json.dumps(query).encode()))

    def bytes(self, path: str, data: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.rest + path, data, timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def instances(self) -> list[str]:
        """SOP Instance UIDs of all that it holds."""
        return sorted(instance["MainDicomTags"]["SOPInstanceUID"] for instance in self.ask("/instances?expand"))

    def clear(self) -> None:
        for patient in self.ask("/patients"):
            urllib.request.urlopen(
                urllib.request.Request(f"{self.rest}/patients/{patient}", method="DELETE"), timeout=30
            )


FETCHER = "FETCHER"
"""AE title that the server knows as a destination."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start a server that answers only to its AE title, ORTHANC, and kill it at the end."""
    if ORTHANC is None:
        pytest.skip("Orthanc is not installed (apt-get install orthanc)")
    dicom, rest, listen = free_port(), free_port(), free_port()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomServerEnabled": True,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "DicomPort": dicom,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"fetcher": [FETCHER, "127.0.0.1", listen]},
        "DicomThreadsCount": 2,
        "HttpServerEnabled": True,
        "HttpPort": rest,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "OverwriteInstances": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, folder / "orthanc.json"], stdout=log, stderr=log)
    try:
        server = Orthanc(f"127.0.0.1:{dicom}:ORTHANC", f"http://127.0.0.1:{rest}", listen)
        wait_until_up(server, process, folder / "log")
        yield server
    finally:
        process.kill()
        process.wait()


def wait_until_up(server: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            server.ask("/system")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"Orthanc did not start: {log.read_text()[-2000:]}")
