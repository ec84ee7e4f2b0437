"""A suite's tables: what every cell says, and that each format is one that its readers can read."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from reporting.test_reporting import record

from advcore.reporting.formats import escape_latex, to_csv, to_latex
from advcore.reporting.page import render
from advcore.reporting.record import RunRecord
from advcore.reporting.suite import Results, Table, build_tables, list_raw_rows
from advcore.reporting.suite_page import build_suite_page
from advcore.reporting.tables import compare_methods, to_markdown


def one(accuracy=0.9, cost=1.0, seconds=4.0, flags=(), **environment) -> RunRecord:
    made = record(accuracy, cost)
    phases = ("attack", "update", "evaluation")
    made.ledger = {phase: {"forward": 1, "backward": 1, "seconds": seconds} for phase in phases}
    made.environment = {"device": "cpu", "platform": "linux", "threads": 1} | environment
    final = made.final["last"] | {"flags": list(flags)}
    made.final = {"last": final, "best": final}
    return made


@pytest.fixture
def results():
    found = Results(reference="full", without=("FAT",))
    found.add("full", 0, one(0.5), hash="abc")
    found.add("full", 1, one(0.6))
    found.add("half", 0, one(0.4, 0.5, 1.0, ["masked: 26 % of the images have no input gradient", "weak: 3 steps"]))
    found.add("half", 1, None, error="loss is | nan")
    found.add("quarter", 0, None)
    found.add("quarter", 1, None)
    return found


def test_a_row_a_method_and_one_for_what_failed_or_is_missing(results):
    last, best = build_tables(results, "a title")
    assert (last.caption, best.caption) == ("a title: checkpoint last", "a title: checkpoint best")
    assert last.header == (
        "method", "seeds", "clean, %", "robust, % (linf 0.1, PGD-50 x 3)", "relative cost (passes)", "seconds",
        "speed-up (passes)", "speed-up (seconds)", "gradient error (random subsets)",
    )  # fmt: skip
    assert last.rows == [
        ("full", "2", "99.0 ± 0.0", "55.0 ± 7.1", "1.00", "8.0", "1.00", "1.00", "0.020 (0.500)"),
        ("half † ‡", "1", "99.0", "40.0", "0.50", "2.0", "2.00", "4.00", "0.020 (0.500)"),
        ("half, seed 1: failed: loss is | nan",),
        ("quarter: missing, seed 0, 1",),
    ]
    assert last.notes[:2] == [
        "† flagged as masked, not to be trusted: half: 26 % of the images have no input gradient.",
        "‡ flagged as weak, not to be trusted: half: 3 steps.",
    ]
    told = " ".join(last.notes)
    assert (
        "100 test images" in told
        and "All runs used one kind of machine: cpu, 1 thread" in told
        and "leaves out" in told
        and "FAT" in told
    )


def test_seconds_are_compared_on_one_machine_only(results):
    results.add("quarter", 2, one(0.3, 0.25, 1.0, device="another"))
    table = build_tables(results, "")[0]
    assert "speed-up (seconds)" not in table.header and "speed-up (passes)" in table.header
    assert "several machines, which differ in device" in " ".join(table.notes)
    results.entries[-1].record.environment |= {"device": "cpu", "threads": 2}
    assert "speed-up (seconds)" not in build_tables(results, "")[0].header


def test_a_run_on_other_data_is_told(results):
    """Which settings alone do not tell: somebody put another file where the data were."""
    for entry in results.entries:
        if entry.record:
            entry.record.data = {"hash": {"train": "images ab", "test": "images cd"}}
    assert "data differ" not in " ".join(build_tables(results, "")[0].notes)
    results.entries[2].record.data = {"hash": {"train": "images ef", "test": "images cd"}}
    notes = [note for note in build_tables(results, "")[0].notes if "data differ" in note or "train data" in note]
    told = "The train data differ, although the settings of the data are the same: full (ab); half (ef)."
    assert notes == [told]


def test_speed_ups_count_passes_where_full_trainings_differ(results):
    """A run at half the cost of a full training that takes three times the passes takes 1.5 times those of `full`."""
    for entry in results.entries[:2]:
        entry.record.reference = {"units": 100}
    other = one(0.3, 0.5)
    other.reference = {"units": 300}
    results.add("quarter", 2, other)
    table = build_tables(results, "")[0]
    speed = table.header.index("speed-up (passes)")
    assert [row[speed] for row in table.rows if row[0] == "quarter"] == ["0.67"]
    assert any(note.startswith("Relative costs are each relative to") for note in table.notes)


def test_without_the_reference_there_are_no_speed_ups(results):
    none = dataclasses.replace(results, reference=None)
    assert "speed-up (passes)" not in build_tables(none, "")[0].header
    lost = dataclasses.replace(results, reference="gone")
    assert "gone, which the others are compared with, has no record" in " ".join(build_tables(lost, "")[0].notes)


def test_where_nothing_has_come_to_its_end_the_table_says_so(results):
    empty = dataclasses.replace(results, entries=results.entries[3:])
    (table,) = build_tables(empty, "t")
    assert ("half, seed 1: failed: loss is | nan",) in table.rows and table.notes == ["No run has finished."]


def test_attacks_that_only_some_runs_met_have_columns_of_their_own():
    other, both = one(0.7), one(0.6)
    other.final["last"]["attacks"][0]["eps"] = 0.2
    both.final["last"]["attacks"] *= 2
    both.final["last"]["worst"] = {"accuracy": 0.55}
    header, rows = compare_methods({"a": [one(0.9)], "b": [other], "c": [both]})
    labels = ["linf 0.1, PGD-50 x 3", "linf 0.2, PGD-50 x 3", "linf 0.1, PGD-50 x 3 (2)", "all of these"]
    assert list(header[3:7]) == [f"robust, % ({label})" for label in labels]
    assert [row[3:7] for row in rows] == [
        ("90.0", "–", "–", "–"), ("–", "70.0", "–", "–"), ("60.0", "–", "60.0", "55.0")
    ]  # fmt: skip


def test_markdown_keeps_its_columns(results):
    text = build_tables(results, "t")[0].markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {10}
    assert to_markdown(("a", "b"), [("x|y",)]).splitlines()[-1] == r"| x\|y |  |"


def test_latex_escapes_what_it_would_read_as_its_own():
    assert escape_latex(r"50 % & a_b #1 $x$ {~^} \n ±") == (
        r"50 \% \& a\_b \#1 \$x\$ \{\textasciitilde{}\textasciicircum{}\} \textbackslash{}n $\pm$"
    )


NASTY = Table("c_1", ("a & b", "c %"), [("[x]", "1 ± 2"), ("failed: 5 % of {x}",)], notes=["† n_1 < 2"])


def test_a_latex_table_has_booktabs_and_spans_its_long_rows(tmp_path):
    text = to_latex(NASTY)
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"a \& b & c \% \\" in text and r"{}[x] & 1 $\pm$ 2 \\" in text
    assert r"\multicolumn{2}{p{0.9\linewidth}}{failed: 5 \% of \{x\}} \\" in text
    body = re.sub(r"\\.", "", text)
    assert body.count("{") == body.count("}") and text.count("$") == 4 and text.isascii()
    if shutil.which("pdflatex"):
        whole = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "t.tex").write_text(whole)
        subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_csv_has_the_records_own_numbers_one_row_a_run(results):
    rows = list(csv.DictReader(io.StringIO(to_csv(*list_raw_rows(results, "su,ite", "small")), newline="")))
    assert [(row["method"], row["seed"], row["status"]) for row in rows] == [
        ("full", "0", "done"), ("full", "1", "done"), ("half", "0", "done"), ("half", "1", "failed"),
        ("quarter", "0", "missing"), ("quarter", "1", "missing"),
    ]  # fmt: skip
    first, failed = rows[0], rows[3]
    assert first["suite"] == "su,ite" and first["size"] == "small" and first["settings"] == "abc"
    assert float(first["last robust 1 (linf 0.1, PGD-50 x 3)"]) == 0.5 and float(first["trained_seconds"]) == 8.0
    assert float(first["gradient_error"]) == 0.02 and failed["error"] == "loss is | nan" and not failed["last clean"]


def test_csv_has_intervals_and_what_stands_before_all_attacks():
    made = one(0.5)
    last = made.final["last"]
    weaker = last["attacks"][0] | {"accuracy": 0.6}
    worst = {"accuracy": 0.4, "interval": [0.3, 0.5], "n": 100}
    made.final["last"] = last | {"attacks": [last["attacks"][0], weaker], "worst": worst}
    found = Results(reference="full")
    found.add("full", 0, made)
    (row,) = csv.DictReader(io.StringIO(to_csv(*list_raw_rows(found, "s", None)), newline=""))
    told = [row[f"last robust (all of these){end}"] for end in ("", " low", " high")]
    assert told == ["0.4", "0.3", "0.5"] and row["last robust 2 (linf 0.1, PGD-50 x 3)"] == "0.6"
    assert "best robust (all of these)" not in row
    low, high = (float(row[f"last robust 1 (linf 0.1, PGD-50 x 3) {end}"]) for end in ("low", "high"))
    assert [low, high] == last["attacks"][0]["interval"]


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_one_well_formed_page_that_needs_no_other(results):
    text = render(build_suite_page("<script> & co", [NASTY, *build_tables(results, "t")], results))
    parser = Balanced()
    parser.feed(text)
    assert not parser.open and "<script>" not in text and "&lt;script&gt; &amp; co" in text
    addresses = [
        value for _, attributes in parser.seen for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all(one.startswith(("#", "data:")) for one in addresses)
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    spans = [attributes for tag, attributes in parser.seen if "colspan" in attributes]
    assert [one["colspan"] for one in spans] == ["2", "9", "9", "9", "9"]
