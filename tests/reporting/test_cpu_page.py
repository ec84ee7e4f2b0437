"""The CPU page says what its records say, and what it compares is comparable."""

import copy

import pytest
import torch

from advcore.files import read_json

CASE = {
    "batch": 8,
    "rounds": 3,
    "missing": ["foolbox"],
    "seconds": {"published": [2.0, 4.0, 3.0], "library": [1.0, 1.0, 2.0], "floor": [0.9, 0.5, 1.8]},
    "pages": {"published": [5000, 5000, 9000], "library": [0, 0, 1], "floor": [0, 0, 0]},
}


def test_the_page_is_made_from_the_committed_records(script):
    page = script("cpu_page")
    record = read_json(page.RECORD)
    assert not record["quick"] and set(record["cases"]) == set(script("cpu").CASES)
    assert page.PAGE.read_text() == page.text(record, page.defaults_records()), "run make pages"


def test_ratios_are_medians_over_rounds_by_hand(script):
    page = script("cpu_page")
    assert page.ratio(CASE, "library", "published") == 2.0  # of 2, 4 and 1.5
    assert page.ratio(CASE, "library", "floor") == 0.9  # of .9, .5 and .9
    published, library, floor = page.table(CASE).splitlines()[2:]
    assert "| 3.000 | 2.000 to 4.000 | 1.00 |  | 5,000 |" in published
    assert "| 1.000 | 1.000 to 2.000 | 2.00 | 90 % | 0 |" in library
    assert "passes of advcore in your own program alone | 0.900 |" in floor


def test_every_way_has_a_label_and_a_neighbour_that_is_missing_is_named(script):
    page, cpu = script("cpu_page"), script("cpu")
    assert set(page.LABELS) == set(cpu.WAYS) and set(page.FLOORS) | set(page.FLOORS.values()) <= set(cpu.WAYS)
    machine = {"processor": "a processor", "cores": 2, "waiting": "PASSIVE", "load_before": 0.1, "load_after": 1.0}
    record = {"environment": {"threads": 1, "torch": "2.14.1"}, "machine": machine, "cases": {"small CNN": CASE}}
    told = page.text(record, [])
    assert "left out: foolbox" in told and "a processor with 2 cores, 1 thread, `OMP_WAIT_POLICY=PASSIVE`" in told


@pytest.mark.slow
def test_the_benchmark_runs_every_way_in_turn(script, tmp_path):
    cpu = script("cpu")
    record = cpu.main(["--quick", "--out", str(tmp_path)])
    (case,) = record["cases"].values()
    assert read_json(tmp_path / "cpu.json") == record
    assert set(case["seconds"]) | set(case["missing"]) == set(cpu.WAYS)
    assert set(case["missing"]) <= {"torchattacks", "foolbox", *(way for way in cpu.WAYS if cpu.WAYS[way].kept)}
    assert all(len(times) == case["rounds"] == cpu.LEAST_ROUNDS for times in case["seconds"].values())


@pytest.mark.slow
def test_the_measurement_of_the_defaults_runs(script):
    record = script("cpu_defaults").main(["--quick"])
    (case,) = record["cases"]
    assert (
        case["family"] == "small_cnn" and case["channels_last"]["ratio"] > 0 and set(case["fused"]) == {"sgd", "adam"}
    )


def test_the_ways_do_the_same_step(script, monkeypatch):
    """From the clean image all start alike: the published losses, TRADES' too, are ours up to rounding."""
    steps, cpu = script("steps"), script("cpu")
    x, y = steps.batch_of(8, torch.device("cpu"))
    model = steps.seeded_network("small_cnn", width=8)
    how = {"attack": steps.ATTACK.with_settings(start="clean")}
    plain = cpu.FIRST_DEFAULTS.resolve(cpu.CPU)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.zero_())
    losses = [float(steps.published(copy.deepcopy(model), x, y)())]
    losses.append(float(steps.ours(copy.deepcopy(model), x, y, plain, **how)()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    trades = [float(way(copy.deepcopy(model), x, y)()) for way in (steps.published_trades, cpu.WAYS["TRADES"].build)]
    assert trades[1] == pytest.approx(trades[0], rel=0.05)


def test_the_floor_does_as_many_passes_as_the_step(script):
    """Convolutions, which it has as many of, and no arithmetic of an attack."""
    steps, cpu = script("steps"), script("cpu")
    x, y = steps.batch_of(4, torch.device("cpu"))
    counts = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.__name__.split(".")[0]
            counts[-1][name] = counts[-1].get(name, 0) + 1
            return function(*args, **(kwargs or {}))

    for build in (cpu.WAYS["library"].build, cpu.floor):
        once = build(steps.seeded_network("small_cnn", width=2), x, y)
        once()  # the first call of a network also counts its operations
        counts.append({})
        with Count():
            once()
    ours, floor = counts
    for name in ("convolution", "convolution_backward"):
        assert ours[name] == floor[name] == 3 * (steps.STEPS + 1)
    assert "sign" in ours and ours["clone"] >= floor.get("clone", 0) + steps.STEPS + 1
    assert not {"sign", "sub", "clamp", "clamp_"} & set(floor)
