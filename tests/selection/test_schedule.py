import pytest

from advcore.errors import ConfigError
from advcore.selection.schedule import Schedule


def actions(schedule: Schedule) -> list[str]:
    return [epoch.action for epoch in schedule.plan()]


def test_the_papers_trades_setting():
    """papers.md 1.2: E=100, kappa=.6, c=.5, T=20 gives 30 warm epochs, 40 coreset epochs, selections at 60 and 80."""
    plan = Schedule(epochs=100, budget=0.5, warm_start=0.6, period=20).plan()
    assert [epoch.lr_index for epoch in plan] == [*range(30), *range(60, 100)]
    assert [epoch.lr_index for epoch in plan if epoch.action == "select"] == [60, 80]
    assert [epoch.action for epoch in plan[:30]] == ["full"] * 30


def test_the_plan_in_words():
    schedule = Schedule(epochs=100, budget=0.5, warm_start=0.6, period=20)
    assert schedule.describe() == "30 full epochs, then 40 at 50 %, selecting at 30 and 50; 70 of 100 epochs run"
    assert Schedule(epochs=7).describe() == "7 full epochs"
    assert Schedule(epochs=1).describe() == "1 full epoch"
    assert Schedule(epochs=2, budget=0.5).describe() == "2 epochs at 50 %, selecting at 0"
    one_of_each = Schedule(epochs=3, budget=0.5, warm_start=0.7)
    assert one_of_each.describe() == "1 full epoch, then 1 at 50 %, selecting at 1; 2 of 3 epochs run"


def test_no_period_selects_once_and_a_full_budget_never():
    assert actions(Schedule(epochs=6, budget=0.5, warm_start=0, period=None)) == ["select"] + ["reuse"] * 5
    assert actions(Schedule(epochs=3, budget=1.0, warm_start=0.5, period=1)) == ["full"] * 3


def test_selections_stand_every_period_after_the_first_whatever_the_warm_start():
    plan = actions(Schedule(epochs=10, budget=0.4, warm_start=0.5, period=3))
    assert plan == ["full"] * 2 + ["select", "reuse", "reuse", "select", "reuse"]


def test_acs_selects_where_the_full_runs_epoch_is_a_multiple_of_the_period_on_a_random_subset_until_then():
    plan = Schedule(epochs=10, budget=0.4, warm_start=0.5, period=4, schedule="acs").plan()
    assert [epoch.action for epoch in plan] == ["full"] * 2 + ["random"] * 3 + ["select", "reuse"]
    assert [epoch.lr_index for epoch in plan] == [0, 1, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("budget", 1.5),
        ("budget", 0),
        ("warm_start", 1),
        ("period", 0),
        ("epochs", 0),
        ("schedule", "ac"),
        ("budget", True),
    ],
)
def test_bad_settings_name_themselves_and_their_value(setting, value):
    with pytest.raises(ConfigError) as error:
        Schedule(**{"epochs": 10, "budget": 0.5, setting: value})
    assert setting in str(error.value) and repr(value) in str(error.value)


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as error:
        Schedule(epochs=0, budget=2, period=-1)
    assert len(error.value.lines) == 3
