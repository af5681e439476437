"""A pool of processes in which a file that kills its worker costs that file and not the job.

`concurrent.futures` gives up the whole pool when a worker dies, and cannot end one that hangs. Here each worker has a
pipe of its own, so that it is known which task died with it.
"""

import contextlib
import functools
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Generic, TypeVar, cast

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Lost:
    """What comes instead of a result; `reason` is `worker_crashed` or `timed_out`."""

    reason: str


def map_isolated(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, time_limit: float
) -> Generator[tuple[Task, Result | Lost]]:
    """Yield each task with its result, in the order in which results come.

    A task whose worker dies, or takes longer than `time_limit` seconds, is tried once more at the end, alone; what
    fails twice yields `Lost`. Tasks are drawn as workers become free. `function` must be importable by name, or a
    `functools.partial` of such a one; an exception that it raises is raised here and ends the whole.

    Workers ignore the interrupt of the terminal; they are killed when the iterator is closed, and end behind their
    present task when the parent dies.
    """
    lost = []
    for task, result in _run(function, tasks, workers, time_limit):
        if isinstance(result, Lost):
            lost.append(task)
        else:
            yield task, result
    for task in lost:
        yield from _run(function, [task], 1, time_limit)


class _Worker(Generic[Task, Result]):
    """One process, its pipe and the task that it has."""

    def __init__(self, function: Callable[[Task], Result]) -> None:
        context = _context(function)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()  # so that the death of the process ends the pipe

    def give(self, task: Task, time_limit: float) -> None:
        self.task = task
        self.deadline = time.monotonic() + time_limit
        with contextlib.suppress(OSError):  # it died before; `take` will find the pipe ended
            self.connection.send(task)

    def take(self) -> Result | Lost | None:
        """The result, `Lost`, or `None` while there is neither."""
        if self.connection.poll():
            try:
                result, error = self.connection.recv()
            except (EOFError, OSError):
                return Lost("worker_crashed")
            if error is not None:
                raise error
            return cast(Result, result)
        return Lost("timed_out") if time.monotonic() > self.deadline else None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _run(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, time_limit: float
) -> Generator[tuple[Task, Result | Lost]]:
    waiting = iter(tasks)
    busy: list[_Worker[Task, Result]] = []
    idle: list[_Worker[Task, Result]] = []
    try:
        while True:
            for _, task in zip(range(workers - len(busy)), waiting, strict=False):
                worker = idle.pop() if idle else _Worker(function)
                busy.append(worker)
                worker.give(task, time_limit)
            if not busy:
                return
            soonest = min(worker.deadline for worker in busy) - time.monotonic()
            wait([worker.connection for worker in busy], timeout=max(0.0, soonest) + 0.01)
            for worker in list(busy):
                result = worker.take()
                if result is None:
                    continue
                busy.remove(worker)
                if isinstance(result, Lost):
                    worker.kill()
                else:
                    idle.append(worker)
                yield worker.task, result
    finally:
        for worker in [*busy, *idle]:
            worker.kill()


def _context(function: Callable[[Task], Result]) -> SpawnContext | ForkServerContext:
    """A fork server that has imported the function's module once; plain spawning where the system has none.

    Plain forking is not safe below libraries that run threads (OpenCV, Polars).
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    named = function.func if isinstance(function, functools.partial) else function
    context.set_forkserver_preload([named.__module__])
    return context


def _serve(connection: Connection, function: Callable[[Task], Result]) -> None:
    """Body of a worker: answer tasks until the pipe ends, which it does when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Result | None, Exception | None]
        try:
            answer = function(task), None
        except Exception as error:
            answer = None, error
        connection.send(answer)
