import json

import pytest

from advcore.errors import CheckpointError
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import compare_methods, describe_reference, list_closing_rows, to_markdown


def record(accuracy=0.9, cost=0.5) -> RunRecord:
    attack = {"name": "linf_pgd", "norm": "linf", "eps": 0.1, "steps": 50, "step_size": 0.01, "restarts": 3, "seed": 0}
    found = {
        "clean": {"accuracy": 0.99, "n": 100, "interval": [0.95, 1.0]},
        "attacks": [{**attack, "split": "test", "n": 100, "accuracy": accuracy, "interval": [0.8, 0.95]}],
    }
    return RunRecord(
        name="x",
        config={},
        environment={"device": "cpu"},
        plan="",
        reference={},
        relative_cost=cost,
        ledger={"attack": {"forward": 1, "backward": 1, "seconds": 2.0}},
        selections=[{"epoch": 3, "gradient_error": 0.02, "gradient_error_random": 0.5}],
        final={"last": found, "best": found},
    )


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    record().save(tmp_path / "record.json")
    assert RunRecord.load(tmp_path / "record.json") == record()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "advcore-record-1", "x": 1}', "{"])
def test_anything_else_is_a_checkpoint_error(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(CheckpointError, match="r.json"):
        RunRecord.load(tmp_path / "r.json")


def test_nan_is_never_written(tmp_path):
    bad = record()
    bad.relative_cost = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        bad.save(tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.case("E9")
def test_the_closing_table_says_what_matters():
    text = json.dumps(list_closing_rows(record()))
    for part in (
        "99.0 [95.0, 100.0]",
        "90.0 [80.0, 95.0]",
        "linf 0.1, PGD-50 x 3",
        "0.500",
        "attack 2.0",
        "0.020 (random 0.500)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ({"epochs": 30, "steps": 10}, "30 epochs, 10 attack steps"),
        ({"epochs": 1, "steps": 1}, "1 epoch, 1 attack step"),
        ({"epochs": 1, "steps": None}, "1 epoch, no attack"),
    ],
)
def test_numbers_agree_with_what_they_count(reference, text):
    assert describe_reference(reference) == text


@pytest.mark.case("E9")
def test_a_comparison_gives_mean_and_sample_deviation_over_seeds():
    header, rows = compare_methods({"a": [record(0.9), record(0.8)], "b": [record(0.7, 0.25)]})
    text = to_markdown(header, rows)
    assert "| a | 2 | 99.0 ± 0.0 | 85.0 ± 7.1 | 0.50 | 2.0 | 0.020 (0.500) |" in text
    assert "| b | 1 | 99.0 | 70.0 | 0.25 | 2.0 | 0.020 (0.500) |" in text
