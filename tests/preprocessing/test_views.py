import pytest

from preprocessing.manifest import canonical_view
from preprocessing.views import is_decubitus


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("PA", "PA"),
        ("AP Supine", "AP"),
        ("Lateral", "LATERAL"),
        ("LL", "LATERAL"),
        ("LLD", "UNKNOWN"),
        ("RLD", "UNKNOWN"),
        ("Lateral decubitus", "UNKNOWN"),
        ("LAT DECUB", "UNKNOWN"),
        ("left lateral decubitus", "UNKNOWN"),
        ("AP decubitus", "UNKNOWN"),
        ("", "UNKNOWN"),
    ],
)
def test_views_as_data_sets_write_them(view: str, expected: str) -> None:
    assert canonical_view(view) == expected


@pytest.mark.parametrize("words", ["lateral", "December", "declined", "world", "lldpe", "PA and lateral", ""])
def test_words_that_only_look_like_decubitus(words: str) -> None:
    assert not is_decubitus(words)
