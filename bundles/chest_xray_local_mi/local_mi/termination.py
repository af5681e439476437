"""SIGTERM, by which job schedulers ask a run to end, as a question that all processes answer alike."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist


class Termination:
    """SIGTERM, remembered inside a `with` block until every process knows of it at the same step.

    The processes ask one another over gloo and read the answer when they next ask, so that no step waits, on a GPU or
    for another process; a stop comes one question later. A further SIGTERM changes nothing: torchrun and the scheduler
    each send one. Outside the main thread, where Python takes no signals, it stays as it is.
    """

    def __init__(self) -> None:
        self.received = False
        self._group: Any = None
        self._question: tuple[torch.Tensor, Any] | None = None
        self._previous: Any = None

    def __enter__(self) -> None:
        self.received = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._remember)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

    @property
    def group(self) -> Any:
        """All processes over gloo, None where there is one; every process asks for it at the same moment first."""
        if self._group is None and idist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
        return self._group

    def agreed(self) -> bool:
        """Whether all processes stop now; every process asks at the same steps."""
        if self.group is None:
            return self.received
        if self.settle():
            return True
        flag = torch.tensor(int(self.received))
        self._question = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group, async_op=True)
        return False

    def settle(self) -> bool:
        """Wait for the answer that is still to come, if there is one, and say what it is."""
        if self._question is None:
            return False
        flag, work = self._question
        work.wait()
        self._question = None
        return bool(flag)

    def _remember(self, _: int, __: FrameType | None) -> None:
        self.received = True
