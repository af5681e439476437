"""Whether time grows with the length of a text or with its square, measured so that a busy machine cannot matter."""

import gc
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
ROUNDS = 3
NOISE = 0.05


def assert_linear_time(work: Callable[[T], object], made: Callable[[int], T], length: int = 100_000) -> None:
    """Asserts that `work` on `made(length)` takes less than 20 times as long as on a tenth of it.

    Linear work takes 10 times as long, quadratic work 100 times. Time is of this thread's processor, without garbage
    collections (one of a test process with a large heap takes a second), and the best of several rounds.

    Args:
        work: What is measured; should not raise.
        made: What it works on, of a given length; not measured.
        length: The greater of the two lengths.
    """
    _seconds(work, made(length // 100))  # the first call reads rules
    short = min(_seconds(work, made(length // 10)) for _ in range(ROUNDS))
    limit = 20 * short + NOISE
    times: list[float] = []
    while len(times) < ROUNDS and (not times or times[-1] >= limit):
        times.append(_seconds(work, made(length)))
    assert min(times) < limit, f"{min(times):.3f} s for a length of {length}, {short:.4f} s for a tenth of it"


def _seconds(work: Callable[[T], object], argument: T) -> float:
    enabled = gc.isenabled()
    gc.disable()
    try:
        begin = time.thread_time()
        work(argument)
        return time.thread_time() - begin
    finally:
        if enabled:
            gc.enable()
