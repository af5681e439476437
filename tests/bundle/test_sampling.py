"""The data of a step: every item once an epoch, and the same whatever the processes, the workers and the cache."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from local_mi.errors import ConfigurationError
from local_mi.sampling import EpochBatches, EpochDataset, ignore_termination
from monai.data import DataLoader
from monai.transforms import (
    Compose,
    EnsureTyped,
    OneOf,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandomOrder,
    RandZoomd,
    ScaleIntensityd,
)
from warm_python import WarmPython

Batches = list[list[tuple[int, int]]]


def epoch_of(size: int, batch_size: int, processes: int = 1, rank: int = 0, epoch: int = 1, step: int = 0) -> Batches:
    batches = EpochBatches(size, batch_size, 5, rank, processes)
    batches.start_at(epoch, step)
    return list(batches)


@given(st.integers(1, 60), st.integers(1, 7))
def test_an_epoch_has_whole_batches_of_different_items(size: int, batch_size: int) -> None:
    batches = epoch_of(size, batch_size)
    indices = [index for batch in batches for _, index in batch]
    expected = size - size % batch_size if size >= batch_size else size
    assert len(indices) == len(set(indices)) == expected
    assert set(indices) <= set(range(size))
    assert {len(batch) for batch in batches} == {min(size, batch_size)}
    assert len(batches) == len(EpochBatches(size, batch_size, 5, 0, 1))


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4), st.integers(1, 3))
def test_processes_share_out_the_batches_of_one_process(size: int, batch_size: int, processes: int, epoch: int) -> None:
    if size < processes:
        with pytest.raises(ConfigurationError, match=f"{size} items for {processes} processes"):
            EpochBatches(size, batch_size, 5, 0, processes)
        return
    one = epoch_of(size, batch_size * processes, epoch=epoch)
    several = [epoch_of(size, batch_size, processes, rank, epoch) for rank in range(processes)]
    assert [[pair for part in parts for pair in part] for parts in zip(*several, strict=True)] == one
    sizes = [len(part) for parts in zip(*several, strict=True) for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.data())
def test_a_later_start_gives_the_rest_of_the_epoch(size: int, batch_size: int, epoch: int, data: st.DataObject) -> None:
    whole = epoch_of(size, batch_size, epoch=epoch)
    step = data.draw(st.integers(0, len(whole)))
    assert epoch_of(size, batch_size, epoch=epoch, step=step) == whole[step:]


def test_epochs_have_orders_of_their_own_and_seeds_too() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = EpochBatches(30, 30, seed, 0, 1)
        batches.start_at(epoch, 0)
        return [index for _, index in next(iter(batches))]

    orders = {tuple(order(seed, epoch)) for seed in range(4) for epoch in range(1, 5)}
    assert len(orders) == 16
    assert order(2, 3) == order(2, 3)


def test_every_item_stands_as_often_in_every_place() -> None:
    """Permutations are uniform: the 99.9 % point of chi-squared with 7 * 7 degrees of freedom, 85.35, times 8 / 7.

    The factor is for counts of permutations, of which each row and each column has exactly one in 8.
    """
    counts = np.zeros((8, 8))
    batches = EpochBatches(8, 8, 0, 0, 1)
    for epoch in range(1, 2001):
        batches.start_at(epoch, 0)
        for place, (_, index) in enumerate(next(iter(batches))):
            counts[place, index] += 1
    assert ((counts - 250) ** 2 / 250).sum() < 97.5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_is_told_nothing_goes_from_epoch_to_epoch(workers: int) -> None:
    loader = DataLoader(
        list_of_pairs(), batch_sampler=EpochBatches(9, 3, 5, 0, 1), num_workers=workers, collate_fn=lambda pairs: pairs
    )
    for epoch in (1, 2, 3):
        assert list(loader) == epoch_of(9, 3, epoch=epoch)


def list_of_pairs() -> Any:
    """A data set whose items are what it is asked for."""

    class Pairs(torch.utils.data.Dataset[tuple[int, int]]):
        def __getitem__(self, index: tuple[int, int]) -> tuple[int, int]:
            return index

        def __len__(self) -> int:
            return 9

    return Pairs()


def test_batches_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_size is 0"):
        EpochBatches(9, 0, 5, 0, 1)
    with pytest.raises(ConfigurationError, match="has 0 items"):
        EpochBatches(0, 3, 5, 0, 1)


ITEMS = [{"image": np.random.default_rng(k).random((1, 16, 16), dtype=np.float32), "number": k} for k in range(12)]


def augmentation() -> Compose:
    """Random transforms as they come in MONAI: plain, nested in others, and of a random choice or order."""
    return Compose(
        [
            ScaleIntensityd("image"),
            RandAffined("image", prob=1.0, rotate_range=math.radians(20), translate_range=[2, 2], padding_mode="zeros"),
            OneOf([RandFlipd("image", prob=0.5), RandZoomd("image", prob=1.0)]),
            RandomOrder([RandGaussianNoised("image", prob=0.5), Compose([RandGaussianNoised("image", prob=1.0)])]),
            EnsureTyped("image", track_meta=False),
        ]
    )


def dataset(cache_rate: float = 0.0, seed: int = 3) -> EpochDataset:
    return EpochDataset(ITEMS, augmentation(), seed, cache_rate)


def image(item: dict[str, Any]) -> np.ndarray:
    return np.asarray(item["image"])


def test_an_item_follows_from_seed_epoch_and_index_alone() -> None:
    whole = dataset()
    first = {(epoch, k): image(whole[epoch, k]) for epoch in (1, 2) for k in range(4)}
    other_order = dataset()
    for epoch, k in sorted(first, key=lambda pair: (-pair[1], pair[0])):
        np.testing.assert_array_equal(image(other_order[epoch, k]), first[epoch, k])
        assert other_order[epoch, k]["epoch"] == epoch
    assert len({values.tobytes() for values in first.values()}) == len(first)
    assert image(dataset(seed=4)[1, 0]).tobytes() != first[1, 0].tobytes()


def test_a_plain_index_is_of_epoch_0_and_may_count_from_the_end() -> None:
    whole = dataset()
    np.testing.assert_array_equal(image(whole[2]), image(whole[0, 2]))
    np.testing.assert_array_equal(image(whole[-1]), image(whole[0, 11]))
    assert whole[2]["epoch"] == 0
    with pytest.raises(IndexError):
        whole[12]


@pytest.mark.parametrize("cache_rate", [0.5, 1.0])
def test_the_cache_changes_nothing(cache_rate: float) -> None:
    cached, computed = dataset(cache_rate), dataset(0.0)
    assert cached.cache_num == 12 * cache_rate
    for epoch in (1, 2):
        for k in range(12):
            np.testing.assert_array_equal(image(cached[epoch, k]), image(computed[epoch, k]))


def batches_of(data: EpochDataset, workers: int, **options: Any) -> list[tuple[list[int], np.ndarray]]:
    loader = DataLoader(
        data, batch_sampler=EpochBatches(12, 4, 5, 0, 1), num_workers=workers, generator=torch.Generator(), **options
    )
    return [(batch["number"].tolist(), np.asarray(batch["image"])) for _ in range(2) for batch in loader]


@pytest.mark.parametrize(
    "options", [{"num_workers": 1}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]
)
def test_workers_change_nothing(options: dict[str, Any]) -> None:
    """MONAI's own seeding of workers, which is on here, neither."""
    expected = batches_of(dataset(), 0)
    found = batches_of(dataset(cache_rate=1.0), options.pop("num_workers"), **options)
    assert [numbers for numbers, _ in found] == [numbers for numbers, _ in expected]
    for (_, images), (_, others) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images, others)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_random_states_alone(workers: int) -> None:
    torch.manual_seed(1)
    torch.rand(3)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    batches_of(dataset(), workers, worker_init_fn=ignore_termination)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


class Terminated(torch.utils.data.Dataset[int]):
    """Each item is read while somebody sends SIGTERM to the worker."""

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return index

    def __len__(self) -> int:
        return 2


def test_workers_leave_sigterm_of_others_to_the_main_process() -> None:
    loader = DataLoader(Terminated(), num_workers=1, worker_init_fn=ignore_termination)
    assert [int(batch) for batch in loader] == [0, 1]


FAILING_RUN = """
import torch
from local_mi.sampling import ignore_termination
from torch.utils.data import DataLoader

loader = DataLoader(range(8), num_workers=1, persistent_workers=True, worker_init_fn=ignore_termination)
iterator = iter(loader)
next(iterator)
raise ValueError("in the middle of an epoch")
"""


def test_a_run_that_fails_ends_and_does_not_wait_for_its_workers(tmp_path: Path, warm_python: WarmPython) -> None:
    (tmp_path / "failing.py").write_text(FAILING_RUN, encoding="utf-8")
    done = warm_python.run(tmp_path / "failing.py")
    assert done.returncode == 1
    assert "in the middle of an epoch" in done.stderr


def test_random_numbers_are_no_function_of_a_shift_in_epoch_or_index() -> None:
    """Neighbours in epoch and index get noise that is not correlated: 66 pairs of 256 values, five standard errors."""
    noise = EpochDataset(
        [{"image": np.zeros((1, 16, 16), dtype=np.float32)}] * 12,
        Compose([RandGaussianNoised("image", prob=1.0, sample_std=False)]),
        0,
        0.0,
    )
    drawn = np.stack([image(noise[epoch, k]).ravel() for epoch in (1, 2, 3) for k in range(4)])
    correlation = np.corrcoef(drawn) - np.eye(12)
    assert np.abs(correlation).max() < 5 / math.sqrt(256)
