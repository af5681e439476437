"""Tasks of test_cluster.py: a module of their own, that the workers import in no time."""

import multiprocessing
import os
import signal
import time
from pathlib import Path


def poisonous(task: int) -> int:
    if task == 50:
        os._exit(1)
    if task == 100:
        time.sleep(600)
    time.sleep(0.01)
    return task * task


def picky(task: int) -> int:
    if task == 7:
        raise LookupError("seven")
    return task


def secretive(secret: str, task: str) -> str:
    raise LookupError


def marked(folder: Path, task: int) -> int:
    (folder / str(task)).touch()
    time.sleep(0.1)
    return task


def deadly(task: int) -> int:
    """One that takes the Dask worker with it, as a machine that runs out of memory may."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if task == 2:
        os.kill(parent.pid or 0, signal.SIGKILL)
        time.sleep(60)
    return task
