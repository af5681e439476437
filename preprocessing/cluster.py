"""Many machines: what `pool.map_isolated` does, on the workers of a Dask scheduler.

Dask moves batches of tasks and runs those of a worker that died on another. Each batch runs inside its Dask worker
through the isolated pool, so that a file that kills its process does not take the Dask worker with it.
"""

import contextlib
import itertools
import multiprocessing
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic

from preprocessing.errors import InputError
from preprocessing.pool import Lost, Result, Task, map_isolated
from preprocessing.store_files import tool_versions

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 60.0
"""For the scheduler to answer, and then for a first worker."""

DESERTED_SECONDS = 600.0
"""That a job waits for new workers when all have gone; what it did is kept."""

BATCH_SECONDS = 2.0
"""Of work in a batch: long beside the 0.03 s that its isolated process takes to start, short beside a job."""

LARGEST_BATCH = 256

AHEAD = 2
"""Batches a thread of the workers: one that it works on, one that waits."""

ASK_SECONDS = 2.0
"""Between two questions to the scheduler how many threads there are."""


def map_on_dask(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    scheduler: str,
    time_limit: float,
    shared: Path | None = None,
) -> Generator[tuple[Task, Result | Lost]]:
    """Yield each task with its result, in the order in which results come; once, whatever dies in between.

    A task that kills its process or takes longer than `time_limit` seconds is tried twice and then `Lost`, as in
    `map_isolated`. Tasks of a Dask worker that dies run again elsewhere, so that `function` may run more than once.
    Closing the iterator cancels what is outstanding; a worker still ends the task that it has. The tasks yielded are
    copies of those given.

    Args:
        function: importable by name on every worker, or a `functools.partial` of such a one.
        tasks: drawn as workers become free.
        scheduler: address (`tcp://host:8786`, `tls://...`, `host:8786`) or path of a scheduler file.
        time_limit: seconds that a task may take.
        shared: a folder that must be the same one on every worker; not checked where `None`.

    Raises:
        InputError: Dask is not installed; scheduler or workers are not there, or are gone; a worker has other versions
            than this machine, or another folder than `shared`.
        Exception: what `map_isolated` raises.
    """
    with _connected(scheduler) as client, _probe(shared) as probe:
        cluster = _Cluster[Task, Result](client, scheduler, _Batch(function, (), time_limit, tool_versions(), probe))
        suspects = []
        try:
            for task, result in cluster.run(tasks):
                if result is _KILLED:
                    suspects.append(task)
                else:
                    yield task, result
            for task in suspects:  # each alone, so that it is known which one is to blame
                yield from cluster.run([task])
        finally:
            cluster.cancel()


_KILLED = Lost("worker_crashed")
"""Of all the tasks with which several Dask workers died; the very object."""


@dataclass(frozen=True)
class _Batch(Generic[Task, Result]):
    """What is sent to a worker. Dask logs how it looks when it fails: no path and no key in that."""

    function: Callable[[Task], Result] = field(repr=False)
    tasks: tuple[Task, ...] = field(repr=False)
    time_limit: float
    versions: Mapping[str, str] = field(repr=False)
    probe: Path | None = field(repr=False)


@dataclass(frozen=True)
class _Answer(Generic[Task, Result]):
    """What comes back: pairs of task and result, and how long they took."""

    pairs: list[tuple[Task, Result | Lost]] = field(repr=False)
    seconds: float


class _Cluster(Generic[Task, Result]):
    """Batches that are with the scheduler, and how much work the workers want."""

    def __init__(self, client: "Client", scheduler: str, empty: _Batch[Task, Result]) -> None:
        self._outstanding: dict[str, tuple[Future, tuple[Task, ...]]] = {}
        self._client = client
        self._scheduler = scheduler
        self._empty = empty
        self._finished: SimpleQueue[Future] = SimpleQueue()
        self._pace = BATCH_SECONDS / 4  # seconds a task: a guess until the first is known
        self._threads = 0
        self._asked = -ASK_SECONDS
        self._inhabited = time.monotonic()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | Lost]]:
        """Yield each task with its result."""
        waiting = iter(tasks)
        while True:
            while self._wants_more() and (part := tuple(itertools.islice(waiting, self._batch_size()))):
                self._submit(part)
            if not self._outstanding:
                return
            yield from self._answers()

    def cancel(self) -> None:
        """Take back all that is outstanding."""
        if futures := [future for future, _ in self._outstanding.values()]:
            with contextlib.suppress(OSError, CancelledError):  # the scheduler is gone, and they with it
                self._client.cancel(futures, force=True)

    def _wants_more(self) -> bool:
        """Whether the workers should have another batch waiting for them."""
        now = time.monotonic()
        if now - self._asked > ASK_SECONDS:
            with _scheduler_needed(self._scheduler, (CancelledError, OSError)):
                self._threads = sum(self._client.nthreads().values())
            self._asked = now
            if self._threads:
                self._inhabited = now
        if now - self._inhabited > DESERTED_SECONDS:
            raise InputError(
                f"{self._scheduler}: all workers are gone, for {DESERTED_SECONDS:.0f} s now; start new ones and run "
                "the same command again, it goes on where it was"
            )
        return len(self._outstanding) < AHEAD * max(1, self._threads)

    def _batch_size(self) -> int:
        """Number of tasks that take about `BATCH_SECONDS`."""
        return max(1, min(LARGEST_BATCH, round(BATCH_SECONDS / self._pace)))

    def _submit(self, tasks: tuple[Task, ...]) -> None:
        """Send a batch to the scheduler."""
        with _scheduler_needed(self._scheduler, (CancelledError, OSError)):
            future = self._client.submit(_run_batch, replace(self._empty, tasks=tasks), pure=False)
        self._outstanding[future.key] = future, tasks
        future.add_done_callback(self._finished.put)

    def _answers(self) -> Iterator[tuple[Task, Result | Lost]]:
        """What came of the batch that ends next; nothing where none ends within `ASK_SECONDS`."""
        try:
            future = self._finished.get(timeout=ASK_SECONDS)
        except Empty:
            return
        _, tasks = self._outstanding.pop(future.key)
        answer = self._answer(future, tasks)
        future.release()
        seconds = max(min(answer.seconds, 4 * BATCH_SECONDS) / len(tasks), 1e-4)  # one that hangs sets no pace
        self._pace += 0.3 * (seconds - self._pace)
        yield from answer.pairs

    def _answer(self, future: "Future", tasks: tuple[Task, ...]) -> _Answer[Task, Result]:
        from distributed import KilledWorker

        try:
            with _scheduler_needed(self._scheduler):
                answer: _Answer[Task, Result] = future.result()
                return answer
        except KilledWorker:
            return _Answer([(task, _KILLED) for task in tasks], BATCH_SECONDS)


@contextlib.contextmanager
def _connected(scheduler: str) -> "Iterator[Client]":
    """A client of the scheduler, once it has a worker."""
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "a Dask scheduler is named, and Dask is not installed; run `pip install cxr-local-mi[cluster]`"
        ) from error

    is_address = "://" in scheduler or re.fullmatch(r"\S+:\d+", scheduler)
    where = {"address": scheduler} if is_address else {"scheduler_file": str(_written(Path(scheduler)))}
    try:
        client = Client(**where, timeout=CONNECT_SECONDS, set_as_default=False, name="cxr-local-mi")
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without a certificate
        raise InputError(
            f"{scheduler}: no Dask scheduler answers there ({error}); start `dask scheduler`, or name another"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise InputError(
                f"{scheduler}: no worker has come to this scheduler for {CONNECT_SECONDS:.0f} s; start some with "
                "`dask worker`"
            ) from error
        yield client


def _written(path: Path) -> Path:
    """A scheduler file, once a scheduler that is just being started has written it."""
    end = time.monotonic() + CONNECT_SECONDS
    while not path.is_file() or not path.stat().st_size:
        if time.monotonic() > end:
            raise InputError(
                f"{path}: is neither an address such as tcp://host:8786 nor a scheduler file; "
                "start `dask scheduler --scheduler-file` with this path"
            )
        time.sleep(0.1)
    return path


@contextlib.contextmanager
def _scheduler_needed(scheduler: str, signs: tuple[type[Exception], ...] = (CancelledError,)) -> Iterator[None]:
    """Say so when the scheduler goes while the job runs, of which `signs` are signs here."""
    try:
        yield
    except signs as error:
        raise InputError(
            f"{scheduler}: the scheduler is gone; start it and its workers, and run the same command again, it goes on "
            "where it was"
        ) from error


@contextlib.contextmanager
def _probe(folder: Path | None) -> Iterator[Path | None]:
    """A file in the folder by which workers know that theirs is the same one."""
    if folder is None:
        yield None
        return
    path = folder.resolve() / f".{secrets.token_hex(8)}.tmp"  # swept by the next run if this one is killed
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _run_batch(batch: _Batch[Task, Result]) -> _Answer[Task, Result]:
    """On a worker: run a batch in a process of its own, or as far as it has come when the job is cancelled."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    _check_worker(batch, worker.address)
    # Dask marks its worker processes as daemons, which may have no children lest these outlive them. The pool's end
    # with their parent in any case.
    multiprocessing.current_process().daemon = False
    started = time.monotonic()
    pairs = []
    results = map_isolated(batch.function, batch.tasks, workers=1, time_limit=batch.time_limit)
    with contextlib.closing(results):
        for pair in results:
            pairs.append(pair)
            if _is_cancelled(worker):
                raise Reschedule  # should anybody want it again; Dask forgets it otherwise
    return _Answer(pairs, time.monotonic() - started)


def _check_worker(batch: _Batch[Any, Any], address: str) -> None:
    here = tool_versions()
    for name, version in batch.versions.items():
        if here.get(name) != version:
            raise InputError(
                f"the Dask worker {address} has {name} {here.get(name)}, this machine has {version}; "
                "install the same versions on all"
            )
    if batch.probe is not None and not batch.probe.exists():
        raise InputError(
            f"the Dask worker {address} does not have the folder {batch.probe.parent}, or another one under this name; "
            "put it where all machines see it"
        )


def _is_cancelled(worker: Any) -> bool:
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled"
