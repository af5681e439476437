"""What a worker does to itself costs its task and nothing else; no worker outlives the pool or its parent."""

import ctypes
import functools
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import preprocessing.pool
from preprocessing.pool import Lost, map_isolated

CRASHED, TIMED_OUT = Lost("worker_crashed"), Lost("timed_out")


def outcomes(function: Callable[[Any], Any], tasks: Any, workers: int = 2, time_limit: float = 60) -> dict[Any, Any]:
    """Results by task; each task has one."""
    pairs = list(map_isolated(function, tasks, workers=workers, time_limit=time_limit))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def squared(task: int) -> int:
    return task * task


def nothing(task: int) -> None:
    return None


def hang_in_c() -> None:
    """Never returns and never lets another thread of the process run."""
    re.match("(a+)+$", "a" * 60 + "b")


def segfault() -> None:
    ctypes.string_at(0)


def kill_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


BLOWS: dict[str, Callable[[], object]] = {
    "os._exit": functools.partial(os._exit, 0),
    "sys.exit": functools.partial(sys.exit, 3),
    "SIGKILL": functools.partial(kill_self, signal.SIGKILL),
    "SIGTERM": functools.partial(kill_self, signal.SIGTERM),
    "segfault": segfault,
    "hang": functools.partial(time.sleep, 600),
    "hang in C": hang_in_c,
    "stopped": functools.partial(kill_self, signal.SIGSTOP),
}


def struck(task: str) -> str:
    if task in BLOWS:
        BLOWS[task]()
    return task.upper()


def test_every_task_has_its_result_whatever_the_number_of_workers() -> None:
    expected = {number: number * number for number in range(200)}
    assert outcomes(squared, range(200), workers=1) == expected
    assert outcomes(squared, iter(range(200)), workers=3) == expected
    assert outcomes(squared, [], workers=2) == {}
    assert outcomes(nothing, [1, 2]) == {1: None, 2: None}


@pytest.mark.parametrize("blow", BLOWS)
def test_a_blow_to_its_process_costs_a_task_and_no_other(blow: str) -> None:
    tasks = [*"abc", blow, *"defg"]
    lost = TIMED_OUT if blow in ("hang", "hang in C", "stopped") else CRASHED
    assert outcomes(struck, tasks, time_limit=0.5) == {task: task.upper() for task in "abcdefg"} | {blow: lost}


def struck_once(folder: Path, task: int) -> str:
    mark = folder / str(task)
    if task % 3 == 0 and not mark.exists():
        mark.touch()
        kill_self(signal.SIGKILL)
    return "done"


def test_what_fails_once_is_tried_again(tmp_path: Path) -> None:
    function = functools.partial(struck_once, tmp_path)
    assert outcomes(function, range(7)) == dict.fromkeys(range(7), "done")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3", "6"]


class UnreadableError(Exception):
    """Can be pickled, cannot be unpickled, as many an exception."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class UnwritableError(Exception):
    def __init__(self) -> None:
        super().__init__("it holds a lock")
        self.lock = threading.Lock()


class UnreadableTask:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def awkward(task: object) -> object:
    if task == "exception":
        raise KeyError("told")
    if task == "pool's own":
        raise BrokenPipeError("the function's")
    if task == "unreadable":
        raise UnreadableError("this", "that")
    if task == "unwritable":
        raise UnwritableError
    return threading.Lock() if task == "lock" else task


@pytest.mark.parametrize(
    ("task", "kind", "said"),
    [
        ("exception", KeyError, "told"),
        ("pool's own", BrokenPipeError, "the function's"),
        ("unreadable", RuntimeError, "UnreadableError: this and that"),
        ("unwritable", RuntimeError, "UnwritableError: it holds a lock"),
        ("lock", TypeError, "cannot pickle"),
        (threading.Lock(), TypeError, "cannot pickle"),
        (UnreadableTask(), ValueError, "not a number"),
    ],
    ids=["exception", "OSError", "unreadable", "unwritable", "result", "task", "unreadable task"],
)
def test_what_is_raised_or_cannot_be_pickled_is_raised_and_ends_the_whole(
    task: object, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        list(map_isolated(awkward, [1, task, 2, 3], workers=1, time_limit=60))


def test_an_exception_says_where_in_the_worker_it_was_raised() -> None:
    with pytest.raises(KeyError) as caught:
        list(map_isolated(awkward, ["exception"], workers=1, time_limit=60))
    assert "in awkward" in "".join(caught.value.__notes__)


def marked(folder: Path, task: int) -> int:
    """Leave the number of the process, then take long, so that the process is there to be looked at."""
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(0.2)
    return task


def pids(folder: Path) -> set[int]:
    return {int(path.stem) for path in folder.glob("*.pid")}


def test_tasks_that_raise_end_the_whole_and_the_workers(tmp_path: Path) -> None:
    def torn() -> Iterator[int]:
        yield from range(4)
        raise LookupError("no more files")

    with pytest.raises(LookupError, match="no more files"):
        list(map_isolated(functools.partial(marked, tmp_path), torn(), workers=2, time_limit=60))
    assert len(pids(tmp_path)) == 2
    assert not any(map(is_alive, pids(tmp_path)))


def test_closing_half_way_ends_the_workers_at_once_and_leaves_no_zombie(tmp_path: Path) -> None:
    results = map_isolated(functools.partial(marked, tmp_path), range(1000), workers=2, time_limit=60)
    next(results)
    wait_until(lambda: len(pids(tmp_path)) == 2)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10  # all tasks would take 100 seconds
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids(tmp_path))


def test_tasks_are_drawn_as_workers_become_free() -> None:
    drawn: list[int] = []
    results = map_isolated(squared, (drawn.append(n) or n for n in range(1000)), workers=2, time_limit=60)
    for done, _ in enumerate(results, 1):
        assert len(drawn) <= done + 2
        if done == 50:
            break
    results.close()


def forking(task: int) -> int:
    """A child that goes on as if it were the worker, and another that outlives the task."""
    if os.fork() == 0:
        return -1
    if os.fork() == 0:
        time.sleep(600)
    if task == 3:
        os._exit(1)
    return task


def test_a_function_that_forks_answers_once_and_its_death_is_noticed() -> None:
    started = time.monotonic()
    assert outcomes(forking, range(5), time_limit=20) == {0: 0, 1: 1, 2: 2, 3: CRASHED, 4: 4}
    assert time.monotonic() - started < 15  # the child holds the dead worker's end of the pipe


def test_a_worker_that_dies_while_it_is_idle_is_replaced(tmp_path: Path) -> None:
    results = map_isolated(functools.partial(marked, tmp_path), [1, 2, *range(10, 20)], workers=1, time_limit=60)
    assert next(results) == (1, 1)
    for killed in range(2, 6):  # between two tasks there is nothing to be lost
        for pid in filter(is_alive, pids(tmp_path)):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids(tmp_path))))
        next(results)
        assert len(pids(tmp_path)) == killed
    assert len(list(results)) == 12 - 5


def bulky(task: bytes) -> bytes:
    return task[::-1]


def test_tasks_and_results_may_be_larger_than_a_pipe() -> None:
    tasks = [bytes([number]) * 3_000_000 for number in range(6)]
    assert outcomes(bulky, tasks) == {task: task for task in tasks}


def kibibytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_does_not_grow_with_the_tasks_nor_time_with_the_pool() -> None:
    for _ in map_isolated(squared, range(2_000), workers=2, time_limit=60):
        pass
    before, started = kibibytes(), time.monotonic()
    for _ in map_isolated(squared, range(20_000), workers=2, time_limit=60):
        pass
    assert kibibytes() - before < 2_000
    assert time.monotonic() - started < 10  # 34,000 a second were measured on two idle cores


def test_workers_that_cannot_start_end_the_whole(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing, sys
            from preprocessing.pool import map_isolated
            if multiprocessing.parent_process():
                sys.exit(7)
            def function(task):
                return task
            list(map_isolated(function, range(1000), workers=2, time_limit=60))
        """),
        encoding="utf-8",
    )
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False, env=environment()
    )
    assert "3 worker processes in a row ended while they were being started" in run.stderr
    assert run.returncode == 1


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(preprocessing.pool.__file__).parents[1])}


WRITING = """
import os, re, subprocess, sys, time
from pathlib import Path
from preprocessing.pool import map_isolated

folder = Path(sys.argv[1])

def function(task):
    (folder / f"{os.getpid()}.pid").touch()
    if task == 0:
        child = subprocess.Popen(["sleep", "600"])
        (folder / f"{child.pid}.pid").touch()
        re.match("(a+)+$", "a" * 60 + "b")  # in C, with the interpreter's lock
    while True:
        (folder / "writing").write_text(str(time.time()))
        (folder / "writing").replace(folder / "written")
        time.sleep(0.01)

if __name__ == "__main__":
    for _ in map_isolated(function, range(2), workers=2, time_limit=60):
        pass
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_die_with_their_parent(tmp_path: Path, blow: signal.Signals) -> None:
    script = tmp_path / "writing.py"
    script.write_text(WRITING, encoding="utf-8")
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment()) as parent:
        wait_until(lambda: len(pids(tmp_path)) == 3 and (tmp_path / "written").exists())
        parent.send_signal(blow)
        parent.wait(timeout=10)
        ended = time.time()
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))), seconds=5)
    assert float((tmp_path / "written").read_text()) - ended < 0.5
