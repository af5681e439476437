import pytest
from pydicom import Dataset
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes

from preprocessing.manifest import canonical_view
from preprocessing.views import VIEW_CODES, is_decubitus, view_position

CID_4010 = {name: getattr(codes.cid4010, name) for name in codes.cid4010.dir()}


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


def view_named(meaning: str) -> str | None:
    """The view that a code's meaning in the standard's own table names, by the plainest reading."""
    if "oblique" in meaning:
        return "OBLIQUE"
    if meaning in ("lateral", "left lateral", "right lateral"):
        return "LATERAL"
    return {"postero-anterior": "PA", "antero-posterior": "AP"}.get(meaning)


@pytest.mark.parametrize("name", CID_4010)
def test_every_code_of_the_standards_table_of_views_in_both_editions_of_snomed(name: str) -> None:
    code = CID_4010[name]
    older = mapping["SCT"][code.value]
    for value in (code.value, older):
        assert VIEW_CODES.get(value) == view_named(code.meaning)


@pytest.mark.parametrize(
    ("along_rows", "expected"),
    [("A", "LATERAL"), ("P", "LATERAL"), ("AF", "LATERAL"), ("AL", "UNKNOWN"), ("LP", "UNKNOWN"), ("L", "UNKNOWN")],
)
def test_rows_that_run_from_front_to_back_are_a_lateral_view(along_rows: str, expected: str) -> None:
    dataset = Dataset()
    dataset.PatientOrientation = [along_rows, "F"]
    assert view_position(dataset)[0] == expected
