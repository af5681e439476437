"""The measure that other tests rely on tells quadratic time from linear time."""

import gc
import re

import pytest
from linear_time import assert_linear_time


def from_everywhere(text: str) -> None:
    """Searches from every character to the end."""
    re.search("x*y", text)


def test_linear_time_passes_and_quadratic_time_fails() -> None:
    assert_linear_time(lambda text: [ord(letter) for letter in text], lambda length: "x" * length)
    with pytest.raises(AssertionError, match=r"s for a length of 100000, 0\.0\d+ s for a tenth of it"):
        assert_linear_time(from_everywhere, lambda length: "x" * (length // 10))


def test_garbage_collections_are_not_measured_and_go_on_afterwards() -> None:
    def work(length: int) -> int:
        assert not gc.isenabled()
        return length

    assert gc.isenabled()
    assert_linear_time(work, int)
    assert gc.isenabled()
