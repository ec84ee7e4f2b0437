"""The pages of the papers' tables: fresh, complete, and no published number that is not entered."""

import pytest
from reporting.test_suite_tables import one

KINDS = {"printed", "digitized"}
COLUMNS = {"clean", "robust", "Unseen", "Seen", "minutes", "seconds", "error", "speed_up"}
WITHOUT_METHOD = {"P_up follows, stopped at epoch 150"}
"""Published rows that no method of a suite stands for."""


@pytest.fixture
def papers(script):
    return script("papers_page")


@pytest.fixture
def toy(papers, monkeypatch):
    """A table whose suite has no record, or those of `full` at 60 and 40 % and of CRAIG at 40 %, at half the cost."""

    def make(name, has_records):
        groups = {}
        if has_records:
            groups = {"full": [one(0.6), one(0.4)], "CRAIG": [one(0.4, 0.5)]}
        monkeypatch.setattr(papers.tables, "groups", lambda suite, size: groups)
        return papers.Table(name)

    return make


def read_table(page: str) -> list[dict[str, str]]:
    """The first table of a page, a mapping of titles to cells a row."""
    lines = [line for line in page.partition("\n## ")[0].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def list_speed_ups(page, reference) -> dict[str, str]:
    """The speed-ups over a page's reference, from its minutes or seconds."""
    times = {name: row.get("minutes", row.get("seconds")) for name, row in page["rows"].items()}
    return {name: f"{times[reference] / time:.2f}" for name, time in times.items() if time is not None}


def test_the_pages_and_their_list_come_from_the_records(root, papers):
    names = set(papers.PUBLISHED["pages"])
    assert (root / "benchmarks/papers.md").read_text() == papers.index_text()
    for name in names:
        assert (root / f"benchmarks/papers/{name}.md").read_text() == papers.text(name), name
    assert {path.stem for path in (root / "benchmarks/papers").glob("*.md")} == names


def test_every_suite_of_the_papers_has_its_page_its_hours_and_its_records(root, papers, script):
    schedule = script("schedule_page")
    suites = {path.stem for path in (root / "benchmarks/suites/papers").glob("*.yaml")}
    scheduled = {(part.suite, part.size) for parts, _ in schedule.STUDIES.values() for part in parts}
    assert set(papers.PUBLISHED["pages"]) == suites
    assert {(f"papers/{name}", "small") for name in suites} <= scheduled
    for name in suites:
        records = root / "benchmarks/records/papers" / name
        suite = papers.tables.suite_of(f"papers/{name}", "small")
        assert suite.records.resolve() == records and len(suite.seeds) >= 3
        methods = papers.tables.methods_of(f"papers/{name}", "small")
        assert any(method.startswith("random") for method in methods), name
        slugs = {path.stem for path in (records / "small").glob("*.json")} - {"baselines"}
        planned = {papers.tables.make_slug(method, seed) for method in methods for seed in suite.seeds}
        assert slugs <= planned


def test_every_published_number_says_whose_it_is_and_stands_beside_a_method(papers):
    for name, page in papers.PUBLISHED["pages"].items():
        methods = papers.tables.methods_of(f"papers/{name}", "small")
        assert page["paper"] in papers.PUBLISHED["papers"] and page["place"] and page["differs"]
        assert page["kind"] in KINDS and set(page["columns"]) <= COLUMNS
        assert set(page["rows"]) <= {*methods, *WITHOUT_METHOD}, name
        for row in page["rows"].values():
            assert row and set(row) <= set(page["columns"]) and all(value > 0 for value in row.values())
        for claim in page.get("claims", []):
            assert claim.keys() == {"place", "column", "value", "text"}
    for entry in papers.PUBLISHED["not_rebuilt"]:
        assert entry["paper"] in papers.PUBLISHED["papers"] and entry["place"] and entry["why"]


def test_every_published_number_on_a_page_is_entered_and_every_entry_is_on_its_page(root, papers):
    for name, page in papers.PUBLISHED["pages"].items():
        reference = page.get("relative_to") or papers.tables.suite_of(f"papers/{name}", "small").reference
        rows = read_table((root / f"benchmarks/papers/{name}.md").read_text())
        titles = {f"{title}: published": column for column, title in page["columns"].items()}
        shown = {}
        for row in rows:
            for title, column in titles.items():
                if row[title] != "not published in numbers":
                    number, _, kind = row[title].partition(" ")
                    assert kind == ("(digitized)" if page["kind"] == "digitized" else "")
                    shown.setdefault(row["method"], {})[column] = float(number)
        assert shown == page["rows"], name
        ratios = {row["method"]: row["speed-up: published"] for row in rows if "speed-up: ours, in compute" in row}
        known = {method: ratio for method, ratio in ratios.items() if ratio != "not published in numbers"}
        if ratios:
            assert known == list_speed_ups(page, reference), name


def test_nothing_is_digitized_but_figure_3(papers):
    digitized = {name for name, page in papers.PUBLISHED["pages"].items() if page["kind"] == "digitized"}
    assert digitized == {"fig3-budgets"}


def test_a_page_without_records_says_so_and_still_has_the_published_numbers(papers, toy):
    assert toy("table1-trades", has_records=False).groups == {}
    page = papers.text("table1-trades")
    (craig,) = [row for row in read_table(page) if row["method"] == "CRAIG"]
    assert craig["clean, %: ours"] == craig["speed-up: ours, in compute"] == "not run yet"
    assert craig["robust, %: published"] == "41.45" and craig["speed-up: published"] == "1.92"
    assert "No run has finished yet. The [schedule](../schedule.md) lists the runs." in page


def test_our_numbers_are_means_over_runs_and_costs_relative_to_the_reference(papers, toy):
    table = toy("table1-trades", has_records=True)
    assert papers.format_measured(table, "full", "robust") == "50.0 ± 14.1"
    assert papers.format_measured(table, "CRAIG", "robust") == "40.0"
    assert papers.format_measured(table, "CRAIG", "speed_up") == "2.00"
    assert papers.format_measured(table, "CRAIG", "error") == "10.0"
    assert papers.format_measured(table, "GradMatch", "error") == "not run yet"
    assert papers.format_measured(table, "no such method", "clean") == "not in the suite"


def test_rows_as_released_stand_beside_the_corrected_ones_with_the_same_published_numbers(root, papers):
    for name in ("table1-trades", "table1-linf", "table1-l2"):
        rows = papers.PUBLISHED["pages"][name]["rows"]
        for method in ("full", "CRAIG", "GradMatch"):
            assert rows[method] == rows[f"{method}, as released"]


def test_ours_and_published_settings_are_told_from_the_resolved_files(papers):
    (sentence,) = papers.describe_differences(papers.Table("table3-fat"))
    assert "settings: data `digits`, network `small_cnn`, 30 epochs, batches of 64, `linf_pgd` of 1 step." in sentence
    there = "data `cifar10`, network `resnet18`, 60 epochs, batches of 128, `linf_pgd` of 1 step"
    assert f"known: {there}. It has not" in sentence
