"""Names of the last release: they warn, and are the same things."""

import importlib
import re

import pytest

from advcore import deprecation, errors
from advcore.cost import CostLedger
from advcore.objectives.standard import Standard
from advcore.runtime import signals
from advcore.runtime.precision import Speed
from advcore.selection.coreset import AdversarialCoreset
from advcore.solvers import Random


def test_an_old_name_warns_and_gives_what_the_new_one_is():
    get = deprecation.forward_renamed("advcore.somewhere", {"must_be": "advcore.errors.must"})
    with pytest.warns(DeprecationWarning, match=r"\.must_be has been renamed to advcore\.errors\.must"):
        assert get("must_be") is errors.must


def test_a_name_that_never_was_is_an_attribute_error():
    get = deprecation.forward_renamed("advcore.somewhere", {})
    with pytest.raises(AttributeError, match=r"'advcore\.somewhere' has no attribute 'nothing'"):
        get("nothing")


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        ("advcore.borrow", "borrow", "advcore.runtime.borrow.borrow"),
        ("advcore.heap", "keep_freed_memory", "advcore.runtime.heap.keep_freed_memory"),
        ("advcore.signals", "Stopped", "advcore.runtime.signals.Stopped"),
        ("advcore.speed", "Speed", "advcore.runtime.precision.Speed"),
        ("advcore.distributed", "merge", "advcore.distributed.merge_ledgers"),
        ("advcore.errors", "shown", "advcore.errors.format_value"),
        ("advcore.types", "settings", "advcore.settings.settings"),
        ("advcore.attacks.base", "Bounded", "advcore.attacks.base.Attack"),
        ("advcore.types", "Coreset", "advcore.selection.result.Coreset"),
        ("advcore.data.source", "batches_for", "advcore.data.contract.read_batches"),
    ],
)
def test_a_name_of_the_last_release_leads_to_the_new_one(module, name, new):
    parent, _, attribute = new.rpartition(".")
    with pytest.warns(DeprecationWarning, match=re.escape(f"{module}.{name} has been renamed to {new}")):
        old = getattr(importlib.import_module(module), name)
    assert old is getattr(importlib.import_module(parent), attribute)


@pytest.mark.parametrize(
    ("thing", "old", "new"),
    [
        (Speed(), "running", "activate"),
        (CostLedger(), "units", "sum_units"),
    ],
)
def test_a_method_of_the_last_release_calls_the_new_one_and_warns_where_it_is_called(thing, old, new):
    with pytest.warns(DeprecationWarning, match=rf"\.{old} has been renamed to {new}") as warned:
        result = getattr(thing, old)()
    assert type(result) is type(getattr(thing, new)()) and warned[0].filename == __file__


def test_the_size_of_a_selection_of_the_last_release_is_the_number_of_examples_it_chooses():
    selector = AdversarialCoreset(objective=Standard(), solver=Random(), budget=0.25)
    with pytest.warns(DeprecationWarning, match=r"AdversarialCoreset\.size has been renamed to count_chosen"):
        assert selector.size(40) == selector.count_chosen(40) == 10


def test_a_name_of_a_module_that_moved_warns_where_it_is_asked_for():
    with pytest.warns(DeprecationWarning, match=r"advcore\.signals\.Stopped") as warned:
        assert importlib.import_module("advcore.signals").Stopped is signals.Stopped
    assert warned[0].filename == __file__
