"""What an archive holds, as tables for people: the command line's `scan`. Prints counts, never names or identifiers."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from preprocessing.header_scan import ScanSummary

Row = tuple[str, tuple[int, ...]]


def print_scan(summary: ScanSummary, console: Console, most_shown: int) -> None:
    """Print how many files would be taken, why the others would not, and what kinds there are.

    A table has `most_shown` rows; the rest is summed up in one more.
    """
    console.print(
        f"{summary.files} files: {summary.taken} would be taken, {summary.files - summary.taken} left out. "
        f"{summary.whole} had to be read whole; the others, no further than their header.",
        highlight=False,
    )
    if summary.reasons:
        reasons = [(name, (count,)) for name, count in summary.reasons.items()]
        console.print(_table(("left out", "files"), reasons, most_shown))
    for name, values in summary.tables.items():
        console.print(_table((name, "files", "would be taken"), list(values.items()), most_shown))


def _table(heads: tuple[str, ...], rows: Sequence[Row], most_shown: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head == heads[0] else "right", min_width=30 if head == heads[0] else 0)
    if len(rows) > most_shown:
        others = [counts for _, counts in rows[most_shown:]]
        rows = [*rows[:most_shown], (f"{len(others)} others", tuple(map(sum, zip(*others, strict=True))))]
    for value, counts in rows:
        table.add_row(value, *map(str, counts))
    return table
