"""What an archive holds, as tables for people: the command line's `scan`. Prints counts, never names or identifiers."""

from rich.console import Console
from rich.table import Table

from preprocessing.header_scan import ScanSummary

MOST_SHOWN = 12
"""Rows of one table; the rest is summed up in one more."""

Row = tuple[str, tuple[int, ...]]


def print_scan(summary: ScanSummary, console: Console) -> None:
    """Print how many files would be taken, why the others would not, and what kinds there are."""
    console.print(
        f"{summary.files} files: {summary.taken} would be taken, {summary.files - summary.taken} left out. "
        f"{summary.whole} had to be read whole; the others, no further than their header.",
        highlight=False,
    )
    if summary.reasons:
        console.print(_table(("left out", "files"), [(name, (count,)) for name, count in summary.reasons.items()]))
    for name, values in summary.tables.items():
        console.print(_table((name, "files", "would be taken"), list(values.items())))


def _table(heads: tuple[str, ...], rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head == heads[0] else "right", min_width=30 if head == heads[0] else 0)
    if len(rows) > MOST_SHOWN:
        others = [counts for _, counts in rows[MOST_SHOWN:]]
        rows = [*rows[:MOST_SHOWN], (f"{len(others)} others", tuple(map(sum, zip(*others, strict=True))))]
    for value, counts in rows:
        table.add_row(value, *map(str, counts))
    return table
