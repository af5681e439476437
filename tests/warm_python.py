"""Python processes that need not import: each is forked from one that has PyTorch, MONAI and the like in memory.

What runs is `python -m MODULE ARGUMENT...` or `python SCRIPT ARGUMENT...` in a process of its own, with its own output,
exit code and global state; what is saved are the seconds of processor time that the imports take. The modules of the
program itself are not among those imported beforehand.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

BEFOREHAND = (
    *("torch", "monai.bundle", "monai.engines", "monai.handlers", "monai.data", "monai.networks.nets"),
    *("ignite.contrib.handlers", "torch.utils.tensorboard", "transformers", "sklearn.metrics", "scipy.ndimage"),
    *("polars", "pydicom", "cv2", "typer", "rich.progress", "fire", "safetensors.torch", "yaml", "pydantic"),
)


class WarmPython:
    """A process with the modules in memory, started when it is first needed; each `run` forks it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.address = str(Path(self.folder.name) / "socket")
        self.process: subprocess.Popen[bytes] | None = None
        self.starting = threading.Lock()

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, __file__, self.address]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"listening\n"

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.communicate()
        self.folder.cleanup()

    def run(
        self, program: str | Path, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Like `subprocess.run` of `python -m MODULE ...` or, given a path, `python SCRIPT ...`; safe in threads."""
        with self.starting:
            if self.process is None:
                self._start()
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as connection:
            out, err = Path(folder) / "stdout", Path(folder) / "stderr"
            words = [str(program), *map(str, arguments)]
            request: dict[str, object] = {"argv": words, "cwd": str(cwd or Path.cwd()), "env": dict(env or {})}
            connection.settimeout(300)
            connection.connect(self.address)
            request |= {"is_script": isinstance(program, Path), "out": str(out), "err": str(err)}
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = connection.makefile().readline()
            return subprocess.CompletedProcess(words, int(answer), out.read_text("utf-8"), err.read_text("utf-8"))


def next_request(address: str) -> dict[str, Any]:
    """Returns once for each connection, in a process that was forked for it; never in the first process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("listening", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
        listener.settimeout(5)
        parent = os.getppid()
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if os.getppid() != parent:
                    sys.exit("the tests have died")
                continue
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request: dict[str, Any] = json.loads(connection.makefile().readline())
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        with suppress(BrokenPipeError):
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    return request


def become(request: dict[str, Any]) -> None:
    """Go on as that Python in the folder, environment and output files asked for."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    if request["is_script"]:
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.path[0] = request["cwd"]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in BEFOREHAND:
        with suppress(ImportError):
            __import__(name)
    gc.freeze()  # or a process would copy every page when it ends, which takes it seconds
    become(next_request(sys.argv[1]))
