"""Label tables keep names and order; wrong values are named by row and column, never shown."""

from pathlib import Path

import polars as pl
import pytest

from preprocessing.errors import InputError
from preprocessing.label_table import read_label_table


def table(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_values_are_one_zero_minus_one_and_null(tmp_path: Path) -> None:
    labels = read_label_table(
        table(tmp_path / "l.csv", "study,Edema,Pleural Effusion\n1.2, 1.0,\n1.3,-1,0\n1.4,,-1.0\n")
    )
    assert labels.columns == ["study", "Edema", "Pleural Effusion"]
    assert labels["study"].to_list() == ["1.2", "1.3", "1.4"]
    assert labels["Edema"].to_list() == [1, -1, None]
    assert labels["Pleural Effusion"].to_list() == [None, 0, -1]
    assert labels["Edema"].dtype == pl.Int8


def test_parquet_gives_the_same_as_csv(tmp_path: Path) -> None:
    pl.DataFrame({"study": ["a"], "Edema": [1.0], "Mass": [None]}, schema_overrides={"Mass": pl.Float64}).write_parquet(
        tmp_path / "l.parquet"
    )
    labels = read_label_table(tmp_path / "l.parquet")
    assert labels.equals(read_label_table(table(tmp_path / "l.csv", "study,Edema,Mass\na,1,\n")))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("study,Edema\na,1\nb,2\nc,SMITH\n", "row 3, 4"),
        ("study,Edema\na,0.5\n", "'Edema', row 2"),
        ("study,Edema\na,nan\n", "'Edema', row 2"),
        ("study,Edema\na,1\n,1\n", "'study', row 3"),
        ("study,Edema\na,1\na,0\n", "'study', row 3"),
        ("patient,Edema\na,1\n", "first column"),
        ("study\na\n", "at least one label"),
        ("study,Edema,Mass,Edema\na,1,0,0\n", "columns 2 and 4 have the same name"),
        ("study,Edema, Edema \na,1,0\n", "columns 2 and 3 have the same name"),
    ],
)
def test_wrong_tables_are_named_by_row_and_column(tmp_path: Path, content: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as raised:
        read_label_table(table(tmp_path / "l.csv", content))
    assert "SMITH" not in str(raised.value)
    assert "l.csv" in str(raised.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        read_label_table(tmp_path / "nowhere.csv")
