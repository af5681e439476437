"""What tests of the command line share: the form of a command's result, and what a refusal looks like."""

import subprocess
from collections.abc import Callable
from pathlib import Path

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1"}
"""Of the environment: lines that are not broken, without colours."""


def assert_refused(done: Done, *words: str | Path) -> None:
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    for word in words:
        assert str(word) in last, last
