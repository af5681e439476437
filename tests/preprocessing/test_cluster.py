"""On a Dask cluster come the same results, each once, whatever dies: real schedulers and workers on this machine."""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_tasks import deadly, marked, picky, poisonous, secretive
from made_dicom import made, saved

import preprocessing.cluster
from preprocessing.cluster import map_on_dask
from preprocessing.configuration import IngestConfiguration
from preprocessing.errors import InputError
from preprocessing.ingest import ingest
from preprocessing.pool import Lost

dask = pytest.importorskip("dask", reason="Dask is not installed (extra `cluster`)")
distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra `cluster`)")

CRASHED, TIMED_OUT = Lost("worker_crashed"), Lost("timed_out")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Cluster:
    """A scheduler and its workers, each started by its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.run("scheduler", "--port", port, "--scheduler-file", str(self.file))

    def run(self, *arguments: str) -> None:
        here = Path(__file__)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (here.parents[2], here.parent)))}
        command = [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
        with (self.folder / "log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def add_worker(self) -> None:
        self.run("worker", self.address, "--nthreads", "1", "--local-directory", str(self.folder))

    def ask(self, function: Callable[[], Any]) -> list[Any]:
        """What the function says in each of the worker processes."""
        with distributed.Client(self.address, set_as_default=False) as client:
            return list(client.run(function).values())

    def kill_a_worker(self) -> None:
        os.kill(self.ask(os.getpid)[0], signal.SIGKILL)


@contextmanager
def running(folder: Path, workers: int) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    for _ in range(workers):
        cluster.add_worker()
    try:
        yield cluster
    finally:
        for process in cluster.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("dask"), 3) as cluster:
        with distributed.Client(cluster.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(3, timeout=60)
        yield cluster


def test_a_worker_killed_half_way_loses_nothing_and_poison_costs_itself(cluster: Cluster) -> None:
    results: dict[int, int | Lost] = {}
    for task, result in map_on_dask(poisonous, iter(range(300)), scheduler=cluster.address, time_limit=1):
        assert task not in results
        results[task] = result
        if len(results) == 20:
            cluster.kill_a_worker()
    assert results == {task: task * task for task in range(300)} | {50: CRASHED, 100: TIMED_OUT}


def test_what_the_function_raises_is_raised_here(cluster: Cluster) -> None:
    with pytest.raises(LookupError, match="seven"):
        list(map_on_dask(picky, range(20), scheduler=str(cluster.file), time_limit=60))


def test_tasks_and_arguments_are_not_in_the_logs_of_the_cluster(cluster: Cluster) -> None:
    function = functools.partial(secretive, "hidden key")
    with pytest.raises(LookupError):
        list(map_on_dask(function, ["hidden path"], scheduler=cluster.address, time_limit=60))
    log = (cluster.folder / "log").read_text()
    assert "Compute Failed" in log
    assert "hidden" not in log
    # Some versions of Dask log how the arguments look, some do not.
    assert "hidden" not in repr(preprocessing.cluster._Batch(function, ("hidden path",), 60, {}, None))


def test_closing_cancels_what_is_outstanding(cluster: Cluster, tmp_path: Path) -> None:
    drawn: list[int] = []
    tasks = (drawn.append(n) or n for n in range(10_000))
    results = map_on_dask(functools.partial(marked, tmp_path), tasks, scheduler=cluster.address, time_limit=60)
    next(results)
    results.close()
    assert len(drawn) < 200  # a few batches a worker and not all of it
    time.sleep(0.5)  # each may end the task that it has
    count = len(list(tmp_path.iterdir()))
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) == count < len(drawn)


def drained(results: Generator[Any]) -> list[Any]:
    return list(results)


def test_a_worker_that_is_another_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def elsewhere(folder: Path | None) -> Iterator[Path]:
        yield tmp_path / "written on another machine"

    with monkeypatch.context() as patched:
        patched.setattr(preprocessing.cluster, "_probe", elsewhere)
        with pytest.raises(InputError, match=r"Dask worker tcp://\S+ does not have the folder"):
            drained(map_on_dask(picky, [1], scheduler=cluster.address, time_limit=60, shared=tmp_path))
    versions = preprocessing.cluster.tool_versions() | {"numpy": "0.1"}
    monkeypatch.setattr(preprocessing.cluster, "tool_versions", lambda: versions)
    with pytest.raises(InputError, match=r"has numpy \S+, this machine has 0\.1"):
        drained(map_on_dask(picky, [1], scheduler=cluster.address, time_limit=60))


def test_a_shared_folder_is_left_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    results = map_on_dask(picky, [1], scheduler=cluster.address, time_limit=60, shared=tmp_path)
    assert list(results) == [(1, 1)]
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_is_not_there_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.cluster, "CONNECT_SECONDS", 0.5)
    address = f"tcp://127.0.0.1:{free_port()}"
    for scheduler in (address, str(tmp_path / "none.json"), "tls://127.0.0.1:1", "carrier-pigeon://attic"):
        with pytest.raises(InputError, match=scheduler):
            drained(map_on_dask(picky, [1], scheduler=scheduler, time_limit=60))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install cxr-local-mi\[cluster\]"):
        drained(map_on_dask(picky, [1], scheduler=address, time_limit=60))


def test_workers_that_never_come_and_a_scheduler_that_goes_end_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job() -> None:
        for done, _ in enumerate(map_on_dask(poisonous, range(50), scheduler=cluster.address, time_limit=9), 1):
            if done == 1:
                cluster.processes[0].kill()

    with running(tmp_path, 0) as cluster:
        while not cluster.file.exists():
            time.sleep(0.1)
        monkeypatch.setattr(preprocessing.cluster, "CONNECT_SECONDS", 2)
        with pytest.raises(InputError, match=f"{cluster.address}: no worker"):
            job()
        monkeypatch.setattr(preprocessing.cluster, "CONNECT_SECONDS", 60)
        cluster.add_worker()
        with pytest.raises(InputError, match="the scheduler is gone"):
            job()


def test_a_task_that_takes_dask_workers_with_it_costs_itself() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        results = map_on_dask(deadly, range(4), scheduler=cluster.scheduler_address, time_limit=60)
        assert dict(results) == {0: 0, 1: 1, 2: CRASHED, 3: 3}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_store_made_on_a_cluster_is_the_one_made_here(cluster: Cluster, tmp_path: Path) -> None:
    source, key = tmp_path / "in", tmp_path / "key"
    source.mkdir()
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 4096, (300, 200)).astype(np.uint16)
        named = {"SOPInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.{number}", "PatientID": f"P{number}"}
        saved(source, made(pixels, BitsStored=12, HighBit=11, **named), f"{number}.dcm")
    (source / "broken.dcm").write_bytes(b"no image")
    key.write_text("5a" * 32)
    key.chmod(0o600)
    store = tmp_path / "store"
    ingest(source, store, key=key, configuration=IngestConfiguration(size=64, workers=2))
    here = contents(store)
    shutil.rmtree(store)
    shutil.rmtree(tmp_path / "store.private")

    def kill_half_way(done: int, total: int | None) -> None:
        if done == 20 and total == 61:
            cluster.kill_a_worker()

    configuration = IngestConfiguration(size=64, scheduler=cluster.address)
    summary = ingest(source, store, key=key, configuration=configuration, on_progress=kill_half_way)
    assert (summary.files.accepted, summary.files.reasons) == (60, {"not_dicom": 1})
    there = contents(store)
    for content in (here, there):
        del content["history.jsonl"]
    assert [name for name in here if here[name] != there.get(name)] == []
    assert here.keys() == there.keys()
