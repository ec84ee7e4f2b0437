"""Columns of a suite's table that hold the mean accuracy under several attacks, such as those a method has not seen."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from advcore.reporting.collapse import drop_collapsed
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import Groups, Row, format_mean

# The labels of attacks by the title of their column. A label is an attack's name, or its name and norm.
Columns = Mapping[str, Sequence[str]]


def is_named(label: str, name: str, norm: str) -> bool:
    """Return whether a label means the attack with this name and norm: "stadv", or "autoattack l2"."""
    return label in (name, f"{name} {norm}")


def insert_columns(table: tuple[Row, list[Row]], groups: Groups, which: str, columns: Columns) -> tuple[Row, list[Row]]:
    """Return the header and the rows of a table of methods with a column for each of `columns`, after clean accuracy.

    A cell holds the mean over attacks of a run's accuracies, as mean and deviation over runs, in percent; collapsed
    runs are left out, as in the other columns.

    table : header and rows, the name of a method first in each.
    which : the checkpoint, "last" or "best".
    """
    header, rows = table
    place = next(i for i, title in enumerate(header) if title.startswith("clean")) + 1
    titles = [f"{title}, % (mean of {len(labels)})" for title, labels in columns.items()]
    wider: list[Row] = [(*row[:place], *_list_cells(groups[row[0]], which, columns), *row[place:]) for row in rows]
    return (*header[:place], *titles, *header[place:]), wider


def _list_cells(records: Sequence[RunRecord], which: str, columns: Columns) -> list[str]:
    counted = drop_collapsed(records, which)
    return [format_mean(_list_means(counted, which, labels)) for labels in columns.values()]


def _list_means(records: Iterable[RunRecord], which: str, labels: Sequence[str]) -> list[float]:
    """Return the mean accuracy, in percent, under the attacks of the labels; records that lack an attack have none."""
    means = []
    for record in records:
        accuracies = [find_accuracy(record, which, label) for label in labels]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        if len(known) == len(labels):
            means.append(100 * statistics.fmean(known))
    return means


def find_accuracy(record: RunRecord, which: str, label: str) -> float | None:
    """Return the accuracy of a checkpoint under the first attack that a label means, a fraction; None for no attack."""
    for entry in record.final[which]["attacks"]:
        if is_named(label, entry["name"], entry["norm"]):
            return float(entry["accuracy"])
    return None


def describe_columns(columns: Columns) -> list[str]:
    """Return a line about each column: what its accuracies are means of."""
    return [f"{title}: the mean of a run's accuracies under {', '.join(labels)}." for title, labels in columns.items()]
