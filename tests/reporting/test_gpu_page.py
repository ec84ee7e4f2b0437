"""The pages of a GPU's records say what the records say."""

import argparse

import pytest
import torch

from advcore.reporting.record import RunRecord


def record(robust: float, seconds: float) -> RunRecord:
    entry = {"name": "linf_pgd", "norm": "linf", "eps": 8 / 255, "steps": 50, "restarts": 10, "n": 1000}
    final = {"clean": {"accuracy": 0.8, "n": 1000}, "attacks": [entry | {"accuracy": robust}]}
    ledger = {"attack": {"seconds": 5.0}, "evaluation": {"seconds": 99.0}}
    epochs = [{"seconds": seconds - 1}, {"seconds": 1.0}]
    known = {"config": {}, "environment": {"device": "a device"}, "plan": "", "reference": {}}
    return RunRecord(name="x", **known, final={"last": final}, ledger=ledger, epochs=epochs, relative_cost=0.5)


def test_speed_up_and_gaps_by_hand(script):
    page = script("cifar10_gpu_page")
    found = {"full": [record(0.5, 200.0)], "GradMatch 0.5": [record(0.48, 100.0)], "random 0.5": [record(0.45, 90.0)]}
    full, chosen, drawn = page.section(found).splitlines()[2:]
    assert "| 200 | 1.00 |" in full and "| – | – |" in full
    assert "| -2.0 ± 4.4 | +3.0 ± 4.4 | 100 | 2.00 | 0.50 |" in chosen
    assert "| -5.0 ± 4.4 | – | 90 | 2.22 |" in drawn
    told = page.text({"cifar10-gpu-trades": found})
    assert "1000 test images" in told and "CIFAR-10 (JPEG copies)" in told and "a device" in told


@pytest.mark.slow
def test_every_part_of_the_gpu_benchmark_runs_on_the_cpu_and_its_page_is_made(script, tmp_path):
    gpu = script("gpu")
    found = gpu.main(["--quick", "--device", "cpu", "--out", str(tmp_path)])
    assert (tmp_path / "gpu.json").exists() and not found["left_out"] and set(found["found"]) == set(gpu.PARTS)
    ways = [one["way"] for one in found["found"]["train"]]
    assert ways == ["published loop", *(way for way, speed in gpu.LADDER.items() if not speed.graphed)]
    page = script("gpu_page").page(found)
    assert page.count("| resnet18 |") == len(ways) + 2 and "| toy | craig |" in page


def test_what_the_time_does_not_allow_is_left_out_and_said(script, tmp_path):
    found = script("gpu").main(["--quick", "--device", "cpu", "--out", str(tmp_path), "--seconds", "0"])
    assert found["left_out"] == ["train", "select", "solve"] and found["found"] == {
        "train": [],
        "select": [],
        "solve": [],
    }


def test_the_published_step_is_ours_up_to_rounding(script):
    """From the clean image, so that both start alike: the same loss before the update."""
    gpu = script("gpu")
    options = argparse.Namespace(device=torch.device("cpu"), quick=True)
    model = gpu.network("resnet18", options.device, True)
    _, x, y = next(gpu.pictures(8, options.device).batches([torch.arange(8)]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = gpu.published(gpu.network("resnet18", options.device, True), x, y)()
    found = float(gpu.ours(model, x, y, gpu.PLAIN)())
    assert found == pytest.approx(plain, rel=0.01)
