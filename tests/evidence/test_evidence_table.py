"""The committed table of recipes: made from the committed records, and of the best methods alone."""

import statistics

import pytest

from advcore.evidence.studies import load_studies, read_study, to_plain


@pytest.fixture
def page(script):
    return script("evidence_table")


def test_the_table_is_fresh(page):
    """Renew it with make pages."""
    assert page.PAGE.read_text() == page.text()


def test_a_study_reads_back_as_it_was_written():
    studies = load_studies()
    assert studies and [read_study(to_plain(study)) for study in studies] == list(studies)


def test_no_training_on_all_data_of_at_most_a_recipes_cost_is_ahead_of_it(page):
    """The obvious twin: look at every method of the suite."""
    for study in load_studies():
        groups = page.tables.groups(study.suite)
        settings = page.tables.suite_of(study.suite).methods
        full = settings[page.tables.suite_of(study.suite).reference]
        for recipe in study.recipes:
            assert recipe.seeds >= page.LEAST_SEEDS
            for name, records in groups.items():
                sound = page.robust(records)
                cheap = page.cost(groups, name) <= recipe.cost and len(sound) == len(records) >= page.LEAST_SEEDS
                plain = not settings[name].get("selection") and not settings[name].get("minibatch")
                if cheap and plain and page.is_recipe(settings[name], full):
                    assert round(statistics.fmean(sound), 2) <= recipe.robust, (study.suite, recipe.method, name)


def test_each_recipe_stands_beside_full_training(page):
    for study in load_studies():
        reference = page.tables.suite_of(study.suite).reference
        for recipe in study.recipes:
            assert recipe.beside[-1].method == reference and recipe.beside[-1].robust == study.robust
