"""Which items make which batch, and their augmentation: functions of seed, epoch and step alone.

So a run that goes on in the middle of an epoch, with any number of workers, sees the data that it would have seen.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose, Randomizable
from torch.utils.data import Sampler

from local_mi.errors import ConfigurationError


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batch sampler of (epoch, index): a permutation for each epoch, the same for every number of processes.

    The batch of all processes number g is positions [g*W*B, (g+1)*W*B) of the permutation, and process r takes the r-th
    B of them, so that W processes see together what one process with W times the batch sees. An incomplete last batch
    is dropped, unless it is the only one; that one is split as evenly as it goes.

    Args:
        size: number of items.
        batch_size: B, of one process.
        seed: of the order, beside the epoch.
        rank: of this process, from 0.
        processes: W.

    Raises:
        ConfigurationError: no items, a batch of none, or fewer items than processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, processes: int) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; set it to 1 or more")
        if size < processes:
            raise ConfigurationError(
                f"the training split has {size} items for {processes} processes; add data or use fewer processes"
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self._next = (1, 0)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return max(1, self.size // (self.batch_size * self.processes))

    def start_at(self, epoch: int, step: int) -> None:
        """Let the next iterator begin after `step` steps of an epoch; epochs count from 1, as Ignite's do."""
        self._next = (epoch, step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batches from where `start_at` said, else those of the epoch after the last iterator's."""
        epoch, step = self._next
        self._next = (epoch + 1, 0)  # a generator gets here with its first batch; loaders make one more and drop it
        order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        for k in range(step, len(self)):
            yield [(epoch, int(index)) for index in self._batch(order, k)]

    def _batch(self, order: np.ndarray, step: int) -> np.ndarray:
        whole = self.batch_size * self.processes
        part: np.ndarray = np.array_split(order[step * whole : (step + 1) * whole], self.processes)[self.rank]
        return part


class EpochDataset(CacheDataset):
    """Items under random transforms that follow from seed, epoch and index alone.

    The transforms before the first random one are computed once for the cached share. An item, which is a dictionary,
    also gets its `epoch`. Workers must be processes, not threads: the random state is the transform's own.

    Args:
        data: dictionaries, of anything that can be indexed.
        transform: MONAI transforms; their randomness must be their own (`Randomizable.R`), as MONAI's is.
        seed: of the transforms, beside epoch and index.
        cache_rate: share of the items to keep in memory, 0 to 1.
    """

    def __init__(self, data: Sequence[Any], transform: Compose, seed: int, cache_rate: float) -> None:
        self.seed = seed
        self.random = np.random.RandomState()  # MONAI's transforms take no Generator
        super().__init__(
            data, transform, cache_rate=cache_rate, num_workers=None, progress=cache_rate > 0 and sys.stderr.isatty()
        )
        _share_random_state(self.transform, self.random)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "EpochDataset":
        """Change nothing: MONAI's loaders would seed the transforms anew."""
        return self

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of (epoch, index); a plain index is one of epoch 0."""
        epoch, number = index if isinstance(index, tuple) else (0, index)
        number = range(len(self))[number]  # a negative index is the same item
        self.random.seed((self.seed, epoch, number))
        return {**self._transform(number), "epoch": epoch}


def _share_random_state(transform: Any, state: np.random.RandomState) -> None:
    """Let all random transforms draw from one state: seeding it takes microseconds, a state for each a hundred."""
    if isinstance(transform, Compose):
        transform.R = state
        for part in transform.transforms:
            _share_random_state(part, state)
    elif isinstance(transform, Randomizable):
        transform.set_random_state(state=state)


def ignore_termination(_: int) -> None:
    """A loader's `worker_init_fn`: workers leave SIGTERM to the main process, and end when that one sends it.

    Job schedulers send it to every process. A worker that dies of it fails the step that the main process still needs
    to finish before it writes its resume point. The main process sends it too, when it ends, and waits for its workers.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_end_when_told_by, args=(main.pid,), daemon=True).start()


def _end_when_told_by(process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)
