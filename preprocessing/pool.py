"""A pool of processes in which a file that kills its worker costs that file and not the job.

`concurrent.futures` gives up the whole pool when a worker dies, and cannot end one that hangs. Here each worker has a
pipe of its own and one task at a time, so that it is known which task died with it.
"""

import contextlib
import fcntl
import functools
import itertools
import multiprocessing
import os
import pickle
import selectors
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from types import ModuleType
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

START_LIMIT = 300.0
"""Seconds that a worker may take to import what it needs, perhaps from a slow network; tasks are timed from then on."""

STARTS = 3
"""Workers that may die in a row before they take a task, until the whole is given up."""

KILL_LIMIT = 5.0
"""Seconds to wait for a killed worker; one that hangs in the kernel, as on a dead network drive, cannot be ended."""

_READY = b"ready"  # a worker's first message; the others are pickles


@dataclass(frozen=True, slots=True)
class Lost:
    """What comes instead of a result; `reason` is `worker_crashed` or `timed_out`."""

    reason: str


def map_isolated(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, time_limit: float
) -> Generator[tuple[Task, Result | Lost]]:
    """Yield each task with its result, in the order in which results come.

    A task whose worker dies, or takes longer than `time_limit` seconds, is tried once more at the end, alone if
    it crashed; what fails twice yields `Lost`. Tasks are drawn as workers become free. `function` must be importable
    by name, or a `functools.partial` of such a one.

    Workers ignore the interrupt of the terminal. They are killed, with all that they started, when the iterator is
    closed and when the parent dies.

    Raises:
        Exception: whatever `function` raises, with the worker's traceback as a note, or drawing from `tasks`, or
            pickling a task or a result; it ends the whole. What cannot be pickled itself comes as a RuntimeError.
        RuntimeError: workers cannot be started.
    """
    crashed: list[Task] = []
    late: list[Task] = []
    for task, result in _run(function, tasks, workers, time_limit):
        if isinstance(result, Lost):
            (late if result.reason == "timed_out" else crashed).append(task)
        else:
            yield task, result
    yield from _run(function, late, workers, time_limit)
    for task in crashed:  # perhaps for want of memory
        yield from _run(function, [task], 1, time_limit)


def _run(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, time_limit: float
) -> Generator[tuple[Task, Result | Lost]]:
    waiting = iter(tasks)
    crew = _Crew(function, time_limit)
    try:
        while True:
            for task in itertools.islice(waiting, workers - len(crew.busy)):
                crew.give(task)
            if not crew.busy:
                return
            yield from crew.outcomes()
    finally:
        crew.kill()


class _Crew(Generic[Task, Result]):
    """The workers, with a task and without, and the wait for the first that has something to say."""

    def __init__(self, function: Callable[[Task], Result], time_limit: float) -> None:
        self.busy: set[_Worker[Task, Result]] = set()
        self._idle: set[_Worker[Task, Result]] = set()
        self._function = function
        self._time_limit = time_limit
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0

    def give(self, task: Task) -> None:
        """Give a task to a worker that is idle, or to a new one."""
        while self._idle:
            worker = self._idle.pop()
            try:
                worker.give(task)
            except OSError:  # it died while it was idle, which is not the task's fault
                self._dismiss(worker)
            else:
                self.busy.add(worker)
                return
        self.busy.add(self._new_worker(task))

    def outcomes(self) -> Iterator[tuple[Task, Result | Lost]]:
        """Wait until a worker has something to say, or has been given long enough; what became of their tasks."""
        soonest = min(worker.deadline for worker in self.busy) - time.monotonic()
        heard = {key.data for key, _ in self._selector.select(max(0.0, soonest))}
        now = time.monotonic()
        for worker in heard | {worker for worker in self.busy if worker.deadline <= now}:
            for outcome in worker.outcome():
                was_busy = worker in self.busy
                self.busy.discard(worker)
                if isinstance(outcome, Lost):
                    self._dismiss(worker)
                else:
                    self._idle.add(worker)
                if not worker.is_ready:
                    self._count_failed_start(worker)
                    self.give(worker.task)
                elif was_busy:
                    yield worker.task, outcome
            if worker.is_ready:
                self._failed_starts = 0

    def kill(self) -> None:
        """End all workers."""
        everyone = self.busy | self._idle
        for worker in everyone:
            worker.kill()
        for worker in everyone:
            worker.join()
        self._selector.close()

    def _new_worker(self, task: Task) -> "_Worker[Task, Result]":
        worker = _Worker(self._function, task, self._time_limit)
        for source in worker.sources:
            self._selector.register(source, selectors.EVENT_READ, worker)
        return worker

    def _dismiss(self, worker: "_Worker[Task, Result]") -> None:
        self._idle.discard(worker)
        for source in worker.sources:
            self._selector.unregister(source)
        worker.kill()
        worker.join()

    def _count_failed_start(self, worker: "_Worker[Task, Result]") -> None:
        self._failed_starts += 1
        if self._failed_starts == STARTS:
            raise RuntimeError(
                f"{STARTS} worker processes in a row ended while they were being started, the last with exit code "
                f"{worker.process.exitcode}; what they printed says why"
            )


class _Worker(Generic[Task, Result]):
    """One process, its pipe and the task that it has or had last, which waits until the process is ready."""

    def __init__(self, function: Callable[[Task], Result], task: Task, time_limit: float) -> None:
        context = _context(function)
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()  # so that the death of the process ends the pipe
        # Both, as a process that the worker started may hold the worker's end of the pipe when it is dead.
        self.sources = (self._connection.fileno(), self.process.sentinel)
        self.task = task
        self.is_ready = False
        self.deadline = time.monotonic() + START_LIMIT
        self._time_limit = time_limit

    def give(self, task: Task) -> None:
        """Send a task. Raises OSError when the worker is dead."""
        self.task = task
        self.deadline = time.monotonic() + self._time_limit
        self._connection.send(task)

    def outcome(self) -> tuple[()] | tuple[Result | Lost]:
        """The result; `Lost` of a worker that is dead or overdue; nothing while there is neither.

        Raises:
            Exception: what the function raised.
        """
        try:
            message = self._connection.recv_bytes() if self._connection.poll() else None
            if message == _READY:
                self.is_ready = True
                self.give(self.task)
                return ()
        except (EOFError, OSError):
            return (Lost("worker_crashed"),)
        if message is not None:
            result, error = pickle.loads(message)
            if error is not None:
                raise error
            return (result,)
        if wait([self.process.sentinel], timeout=0):
            return (Lost("worker_crashed"),)
        return (Lost("timed_out"),) if time.monotonic() >= self.deadline else ()

    def kill(self) -> None:
        """End the process and all that it started; at once, unless the kernel holds it."""
        if self.process.exitcode is None and self.process.pid:
            with contextlib.suppress(ProcessLookupError):  # it has not made its group yet
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()

    def join(self) -> None:
        """Wait for the end of the process."""
        self.process.join(KILL_LIMIT)
        self._connection.close()


def _context(function: Callable[[Task], Result]) -> SpawnContext | ForkServerContext:
    """A fork server that has imported what workers need once; plain spawning where the system has none.

    Plain forking is not safe below libraries that run threads (OpenCV, Polars).
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    named = function.func if isinstance(function, functools.partial) else function
    # Every worker runs the imports of the main script again: 0.3 s for the command `dask`.
    context.set_forkserver_preload([named.__module__, *_modules_of_main()])
    return context


def _modules_of_main() -> list[str]:
    """Names of the modules from which the main script has something, and which each worker imports with it."""
    values = vars(sys.modules["__main__"]).values()
    names = {
        value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", "")) for value in values
    }
    return sorted(name for name in names if name in sys.modules and name != "__main__")


def _serve(connection: Connection, function: Callable[[Task], Result]) -> None:
    """Body of a worker: answer tasks until the pipe ends."""
    os.setpgid(0, 0)  # the terminal's interrupt goes to the parent alone
    _die_with_parent()
    with contextlib.suppress(EOFError, OSError):  # the pipe has ended, and so has the pool
        connection.send_bytes(_READY)
        while True:
            connection.send_bytes(_answer(function, connection.recv_bytes()))


def _die_with_parent() -> None:
    """Have this process killed, and all that it starts, as soon as the process that runs the pool is gone.

    The parent's end of a pipe closes when it dies, however it dies. Linux then sends SIGKILL, which also ends a decoder
    that hangs without ever letting another thread run; elsewhere a thread has to do.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    # Also for a parent that died before this.
    threading.Thread(target=_kill_after, args=(parent.sentinel,), daemon=True).start()


def _kill_after(sentinel: int) -> None:
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)


def _answer(function: Callable[[Task], Result], content: bytes) -> bytes:
    """Pickle of the result and `None`, or of `None` and the exception."""
    worker = os.getpid()
    try:
        return pickle.dumps((function(pickle.loads(content)), None))
    except Exception as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return _pickled_error(error)
    finally:
        if os.getpid() != worker:  # a child that the function forked has come back here: one answer is enough
            os._exit(0)


def _pickled_error(error: Exception) -> bytes:
    try:
        content = pickle.dumps((None, error))
        pickle.loads(content)  # many an exception can be written and not be read
    except Exception:
        return pickle.dumps((None, RuntimeError("".join(traceback.format_exception_only(error)))))
    return content
