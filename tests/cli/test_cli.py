"""The command line from end to end on digits: files, exit codes, one line an error."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from covering import covering
from forked import Forked
from safetensors.torch import save_file
from sealed import rewrite

from advcore import Coreset, cli
from advcore.config.load import from_dict, load, override
from advcore.files import load_arrays, load_tensors, read_sealed
from advcore.reporting.costs import count_passes
from advcore.reporting.record import RunRecord
from advcore.run.prepare import prepare

SELECTION_KEYS = {"epoch", "solver", "partition", "k", "filled", "rounds", "gradient_error", "gradient_error_trained",
                  "gradient_error_random", "weight_sum", "effective_sample_size", "class_counts", "overlap", "seconds",
                  "passes"}  # fmt: skip
ATTACK_KEYS = {"name", "eps", "norm", "steps", "step_size", "restarts", "seed", "split", "n", "accuracy", "interval"}

OF_WHAT = ("checkpoint", "schema", "sha256", "config")
"""What an evaluation says beside its numbers."""


SMALLER = ("data.train_size=80", "data.test_size=20", "evaluation.checks=false", "training.epochs=3",
           "selection.warm_start=0.7")  # fmt: skip
"""For runs whose numbers nobody looks at: a full epoch, a selection, an epoch on it."""

MEASURED = {"seconds", "peak_memory", "load", "load_warning", "seal"}


def sets(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory):
    """What `run` has made so far: (experiment, *changes) to a copy of its folder, which nobody changes."""
    return {}


@pytest.fixture
def run(advcore, root, tiny, tmp_path, tmp_path_factory, finished_runs):
    """Run a tiny version of a digits experiment; its folder. A run that was made before is copied, unless `again`."""

    def call(name: str, *changes: str, out: str = "run", again: bool = False):
        folder = tmp_path / out
        if not again and (name, *changes) in finished_runs:
            return shutil.copytree(finished_runs[name, *changes], folder)
        code, _, err = advcore("run", root / "experiments" / f"{name}.yaml", *sets(*tiny, *changes), "--out", folder)
        assert code == 0, err
        finished_runs[name, *changes] = shutil.copytree(folder, tmp_path_factory.mktemp("finished") / "run")
        return folder

    return call


def test_the_commit_is_read_from_a_checkout_and_from_a_worktree(tmp_path, monkeypatch):
    from advcore.run import environment as module

    main, tree = tmp_path / "main", tmp_path / "tree"
    for folder in (
        main / ".git/refs/heads",
        main / ".git/worktrees/tree",
        tree / "advcore/run",
        main / "advcore/run",
    ):
        folder.mkdir(parents=True)
    (main / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (main / ".git/refs/heads/main").write_text("a" * 40 + "\n")
    (main / ".git/packed-refs").write_text("b" * 40 + " refs/heads/side\n")
    (main / ".git/worktrees/tree/HEAD").write_text("ref: refs/heads/side\n")
    (main / ".git/worktrees/tree/commondir").write_text("../..\n")
    (tree / ".git").write_text(f"gitdir: {main}/.git/worktrees/tree\n")
    for folder, commit in ((main, "a" * 40), (tree, "b" * 40), (tmp_path, None)):
        monkeypatch.setattr(module, "__file__", str(folder / "advcore/run/environment.py"))
        assert module._read_commit() == commit


@pytest.mark.case("E9")
def test_a_run_leaves_a_whole_record_checkpoints_and_coresets(run):
    folder = run("trades_gradmatch", "selection.period=1")
    record = RunRecord.load(folder / "record.json")
    assert record.finished and record.name == "trades_gradmatch"
    assert len(record.epochs) == 3 and len(record.selections) == 2
    assert all(set(one) >= SELECTION_KEYS for one in record.selections)
    assert set(record.selections[0]["seconds"]) == {"attack", "rows", "solve"}
    assert set(record.ledger["attack"]) == {"forward", "backward", "seconds", "flops"}
    for which in ("last", "best"):
        assert set(record.final[which]["clean"]) == {"accuracy", "n", "interval"}
        assert set(record.final[which]["attacks"][0]) >= ATTACK_KEYS
        assert (folder / "checkpoints" / f"{which}.safetensors").exists()
    assert record.final["last"]["attacks"][0]["split"] == "test"
    assert from_dict(record.config).training.epochs == 4
    assert {"torch", "device", "commit", "threads"} <= set(record.environment)
    assert record.data["hash"].keys() == {"train", "test"}
    assert all(re.fullmatch("images [0-9a-f]{16}", told) for told in record.data["hash"].values())
    coreset = Coreset.load(folder / "coresets" / "epoch-001.npz")
    assert coreset.num_examples == 1438 and len(coreset) == record.selections[0]["k"]


def test_the_relative_cost_is_the_ledgers_and_full_training_costs_1(run):
    record = RunRecord.load(run("trades_full", "cost.reference_steps=2") / "record.json")
    assert record.relative_cost == 1.0 and record.selections == []
    units = sum(e["forward"] + e["backward"] for phase, e in record.ledger.items() if phase != "evaluation")
    assert units == record.reference["units"] == 4 * 144 * (2 * 2 + 5)


@pytest.mark.case("A1")
def test_two_runs_are_the_same_but_for_times(run):
    one, two = run("trades_gradmatch", out="a"), run("trades_gradmatch", out="b", again=True)
    assert (one / "checkpoints/last.safetensors").read_bytes() == (two / "checkpoints/last.safetensors").read_bytes()
    facts = [json.loads((folder / "record.json").read_text()) for folder in (one, two)]
    assert _timeless(facts[0]) == _timeless(facts[1])


def _timeless(value):
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in MEASURED}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "name",
    [
        "linf_craig",
        "l2_gradmatch",
        "fat_gradmatch",
        "nfgsm_gradmatch",
        "easycore_standard",
        "easycore_trades",
        "trades_random",
    ],
)
def test_every_kind_of_experiment_runs_to_the_end(run, name):
    changes = ["selection.solver.scores=null", "selection.probe_epochs=1"] if name.startswith("easycore") else []
    changes += ["attack=null"] if name == "easycore_standard" else []
    changes += ["training.lr_schedule.milestones=[2]"] if name in ("fat_gradmatch", "nfgsm_gradmatch") else []
    changes += ["attack={name: n_fgsm, eps: 0.1}"] if name == "nfgsm_gradmatch" else []
    record = RunRecord.load(run(name, *SMALLER, *changes) / "record.json")
    assert record.finished and record.relative_cost > 0 and len(record.selections) == 1


def test_evaluate_repeats_the_records_numbers_and_select_writes_a_coreset(run, advcore, root, tiny, tmp_path):
    folder = run("trades_gradmatch")
    code, out, _ = advcore("evaluate", folder, "--checkpoint", "best", "--out", tmp_path / "e.json")
    assert code == 0 and "robust" in out
    found = read_sealed(tmp_path / "e.json", "advcore-evaluation-1")
    record = RunRecord.load(folder / "record.json")
    assert {k: v for k, v in found.items() if k not in OF_WHAT} == record.final["best"]
    file, state = root / "experiments/trades_craig.yaml", folder / "checkpoints/last.safetensors"
    code, out, err = advcore("select", file, "--checkpoint", state, *sets(*tiny), "--out", tmp_path / "c.npz")
    assert code == 0, err
    assert Coreset.load(tmp_path / "c.npz").solver == "craig"
    code, _, err = advcore("evaluate", folder, "--checkpoint", "best", *sets("model.width=8"))
    assert code == 2 and "another model" in err and "keys differ" in err


def test_what_would_be_written_is_looked_at_before_anything_runs(run, advcore, root, tiny, tmp_path, monkeypatch):
    folder = run("trades_gradmatch")
    from advcore.run import prepare as module

    monkeypatch.setattr(module, "Prepared", None)  # nothing gets this far
    for names in (("--out", "a.json", "--examples", "a.npz"), ("--state", "s.npz", "--examples", "s.npz")):
        given = [tmp_path / name if "." in name else name for name in names]
        code, _, err = advcore("evaluate", folder, *given)
        assert code == 2 and err.count("\n") == 1 and "must be different files" in err, err
    (tmp_path / "c.npz").mkdir()
    file, state = root / "experiments/trades_craig.yaml", folder / "checkpoints/last.safetensors"
    for name, told in (("results", "must be a file that ends in .npz"), ("c.npz", "c.npz")):
        code, _, err = advcore("select", file, "--checkpoint", state, *sets(*tiny), "--out", tmp_path / name)
        assert code == 2 and err.count("\n") == 1 and told in err, err
    code, _, err = advcore("check", file, *sets("evaluation.examples=5000"))
    assert code == 2 and "evaluation.examples must be at most 359, the number of test images" in err, err
    code, _, err = advcore("check", file, *sets("training.lr_schedule={name: multi_step, milestones: [3]}",
                                                "training.lr_schedule.milestones.0.x=3"))  # fmt: skip
    assert code == 2 and err.count("\n") == 1 and "0 holds 3, which has no settings" in err, err


def test_a_run_is_judged_where_what_only_training_needs_is_not_there(run, advcore, tmp_path, monkeypatch):
    """A tracker's package, or memory for a selection."""
    folder = tmp_path / "copy"
    shutil.copytree(run("trades_gradmatch"), folder)

    def change(record):
        record["config"]["tracking"] = [{"name": "wandb"}]
        record["config"]["selection"]["memory_limit"] = 1e-6

    rewrite(folder / "record.json", change)
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, out, err = advcore("evaluate", folder)
    assert code == 0 and "robust" in out, err


def test_an_existing_run_is_refused_and_overwrite_removes_only_our_own_files(run, advcore, root, tiny, tmp_path):
    folder = run("trades_random", *SMALLER)
    (folder / "notes.txt").write_text("mine")
    file = root / "experiments/trades_random.yaml"
    code, _, err = advcore("run", file, *sets(*tiny, *SMALLER), "--out", folder)
    assert code == 2 and "--overwrite" in err
    code, _, err = advcore("run", file, *sets(*tiny, *SMALLER), "--out", folder, "--overwrite")
    assert code == 0 and (folder / "notes.txt").read_text() == "mine"


def test_check_prints_the_plan_and_runs_nothing(advcore, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = advcore("check", root / "experiments/trades_gradmatch.yaml")
    assert code == 0 and "0.55 of full training" in out and "gradient rows" in out
    assert not list(tmp_path.iterdir())


def test_check_says_by_an_earlier_run_whether_choosing_can_pay(advcore, root, run, tiny):
    folder = run("trades_random", *SMALLER)
    file = root / "experiments/trades_gradmatch.yaml"
    code, out, err = advcore("check", file, *sets(*tiny), "--from", folder)
    assert code == 0, err
    assert "Headroom was 0." in out
    assert re.search(r"so selection (can|cannot) be worth its cost\.", " ".join(out.split()))
    assert "The run of --from has another" not in out
    code, _, err = advcore("check", file, "--from", root / "nowhere")
    assert code == 2 and "--from must be the folder of a run, or its record" in err
    code, out, err = advcore("check", root / "experiments/linf_gradmatch.yaml", *sets(*tiny), "--from", folder)
    assert code == 0, err
    assert "The run of --from has another objective.name ('trades')" in " ".join(out.split())
    code, out, err = advcore("check", root / "experiments/trades_random.yaml", *sets(*tiny), "--from", folder)
    assert code == 0, err
    assert "no verdict" in out and "worth its cost" not in out


def test_check_gives_no_verdict_on_selections_from_a_pool(advcore, root, run, tiny, tmp_path, monkeypatch):
    folder = run("trades_random", *SMALLER)
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    np.savez("pool.npz", image=images, label=np.arange(200) % 10)
    path = "data.pool.path=pool.npz"
    code, out, err = advcore("check", root / "experiments/pool_gradmatch.yaml", "--set", path, "--from", folder)
    assert code == 0, err
    assert "nothing about the images of a pool" in " ".join(out.split())


@pytest.fixture
def no_tiles(monkeypatch):
    """Without the constant part of what a selection holds, its rows are a large part."""
    monkeypatch.setattr("advcore.selection.memory._TILES", 0)


def test_check_says_what_a_selection_will_hold(advcore, root, no_tiles):
    file = root / "experiments/trades_gradmatch.yaml"
    code, out, _ = advcore("check", file, *sets("data.train_size=160"))
    held = {name.strip(): size for name, size in re.findall(r"memory, ([^│]+)│\s*([\d.,]+) MB", out)}
    assert code == 0 and {"gradient rows", "largest problem", "selection at its peak"} <= held.keys()
    height = float(held["selection at its peak"])
    assert height >= float(held["largest problem"]) and height >= float(held["gradient rows"])
    assert "temporary file" not in out
    limit = _least(advcore, file) * 1.02
    code, spilled, _ = advcore("check", file, *sets(f"selection.memory_limit={limit}"))
    assert code == 0 and "temporary file" in spilled
    for change in ("selection.solver={name: random}", "selection.budget=1.0"):
        code, out, _ = advcore("check", file, *sets("data.train_size=160", change))
        assert code == 0 and "gradient rows" not in out and "model and optimiser" in out


def _least(advcore, file, *changes: str) -> float:
    """The limit that a refusal asks for."""
    _, _, err = advcore("check", file, *sets(*changes, "selection.memory_limit=1e-6"))
    return float(re.search(r"at least (\S+) GB", err).group(1))


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_limit_that_no_file_can_keep_is_one_line_and_exit_2(advcore, root, tmp_path, command):
    where = ["--out", tmp_path / "run"] if command == "run" else []
    file = root / "experiments/trades_gradmatch.yaml"
    code, out, err = advcore(command, file, *sets("selection.memory_limit=1e-6"), *where)
    assert code == 2 and err.count("\n") == 1 and out == ""
    assert all(part in err for part in ("selection.memory_limit must be at least", "1e-06 GB", "per_class"))
    assert not list(tmp_path.iterdir())


def test_a_run_whose_rows_are_in_a_file_has_the_numbers_of_one_whose_rows_are_not(run, advcore, root, tiny, no_tiles):
    file = root / "experiments/trades_gradmatch.yaml"
    limit = _least(advcore, file, *tiny) * 1.02
    one, two = (
        RunRecord.load(run("trades_gradmatch", *changes, out=name) / "record.json")
        for name, changes in (("a", []), ("b", [f"selection.memory_limit={limit}"]))
    )
    assert one.events == [] and len(two.events) == len(two.selections)
    assert all(f"memory_limit {limit:g}" in entry["event"] for entry in two.events)
    assert _timeless(one.selections) == _timeless(two.selections) and one.final == two.final


def test_a_run_that_matches_validation_counts_what_check_says(run, advcore, root, tiny):
    changes = ["selection.target=validation", "selection.period=1"]
    record = RunRecord.load(run("trades_gradmatch", *changes) / "record.json")
    assert all(one["target_error"] > 0 for one in record.selections) and record.finished
    _, out, _ = advcore("check", root / "experiments/trades_gradmatch.yaml", *sets(*tiny, *changes))
    planned = int(re.search(r"backward\s*│\s*([\d,]+)", out).group(1).replace(",", ""))
    assert count_passes(record) == planned
    assert {one["passes"] for one in record.selections} == {160 * (2 * 2 + 2)}  # 144 train and 16 validation examples


def test_select_can_match_validation_too(run, advcore, root, tiny, tmp_path):
    changes = ["selection.target=validation", "selection.period=1"]
    folder = run("trades_gradmatch", *changes)
    file, state = root / "experiments/trades_gradmatch.yaml", folder / "checkpoints/last.safetensors"
    given = ("select", file, "--checkpoint", state, *sets(*tiny, *changes), "--out", tmp_path / "c.npz")
    code, _, err = advcore(*given)
    assert code == 0, err
    assert Coreset.load(tmp_path / "c.npz").quality["target_error"] > 0


def test_list_names_everything(advcore):
    code, out, _ = advcore("list")
    assert code == 0
    for name in ("linf_pgd", "trades", "gradmatch", "per_batch", "svhn", "wide_resnet34_10", "one_cycle", "last_layer"):
        assert name in out
    assert advcore("list", "sovlers")[0] == 2


def test_doctor_reports_packages(advcore):
    code, out, _ = advcore("doctor")
    assert code == 0 and "torch" in out and "extra hf" in out


@pytest.fixture
def bad_data(tmp_path):
    """An npz whose images or labels are wrong in one named way."""

    def write(kind: str):
        x, y = np.random.default_rng(0).random((40, 1, 8, 8)).astype("float32"), np.arange(40) % 4
        arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y.copy()}
        if kind == "0-255 floats":
            arrays["x_train"] = x * 255
        if kind == "other shape":
            arrays["x_test"] = x.repeat(3, 1)
        if kind == "labels":
            arrays["y_test"][7] = 9
        np.savez(tmp_path / "data.npz", **arrays)
        return [f"data={{name: npz, path: {tmp_path / 'data.npz'}}}"]

    return write


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["colour=red"], ["colour"]),
        (["training.optimizer.momentm=0.9"], ["training.optimizer.momentm", "momentum"]),
        (["selection.budget=1.5"], ["selection.budget", "1.5", "(0, 1]"]),
        (["attack.eps=8"], ["attack.eps", "8/255"]),
        (["data={name: parquet, path: /nowhere/at/all}"], ["data.path", "/nowhere/at/all"]),
        (["data={name: cifar10, path: /nowhere/at/all}"], ["data.path", "/nowhere/at/all"]),
        ("labels", ["9", "example 7", "0..3"]),
        ("0-255 floats", ["[0, 1]", "image 0", "255"]),
        (["model.head=nope"], ["model.head", "nope"]),
        (["selection.solver.name=gradmach"], ["selection.solver.name", "gradmatch"]),
        (["attack={name: l2_pgd, eps: 100}"], ["attack.eps", "100"]),
        (["device=cuda:7"] if not torch.cuda.is_available() else ["device=x"], ["device"]),
        (["selection.chunk_size=20"], ["selection.chunk_size", "16"]),
        (["attack.start=clean"], ["attack.start", "clean"]),
        (["selection.probe_epochs=3"], ["selection.probe_epochs", "3"]),
        (["selection.partition=per_batch", "data.train_size=60"], ["training.batch_size", "64"]),
        (["data.train_size=3", "selection.budget=0.1"], ["selection.budget", "at least two"]),
        ("other shape", ["one shape", "(3, 8, 8)"]),
        (["data={name: npz, path: .}"], ["data.path", "'.'"]),
        (["data.train_size=100000"], ["train_size", "100000"]),
        (["selection.target=validation", "data.validation=0"], ["selection.target", "'validation'", "data.validation"]),
        (["selection.target=validation", "selection.solver={name: craig}"], ["selection.target", "gradmatch"]),
        (["selection.memory_limit=-1"], ["selection.memory_limit", "-1"]),
        (["attack.start=remembered", "attack.restarts=2"], ["attack.restarts", "remembered", "2"]),
        (
            ["evaluation.attacks.0.start=remembered", "evaluation.attacks.0.restarts=1"],
            ["evaluation.attacks.0.start", "'remembered'"],
        ),
        (
            ["selection.attack={name: linf_pgd, eps: 0.1, start: remembered}"],
            ["selection.attack.start", "'remembered'"],
        ),
        (["training.memory={precision: int8}"], ["training.memory", "remembered", "int8"]),
        (["training.memory={precision: int4}"], ["training.memory.precision", "int8", "'int4'"]),
        (["training.attack_steps={name: linear, first: 0, last: 3}"], ["training.attack_steps.first", "0"]),
        (["training.attack_steps={name: by_budget, mean: 20}"], ["training.attack_steps.first, mean, last", "20"]),
        (
            [
                "attack={name: n_fgsm, eps: 0.1}",
                "training.attack_steps={name: constant, steps: 2}",
                "objective={name: pgd}",
            ],
            ["training.attack_steps", "null", "'NFGSM'"],
        ),
        (["selection.cost=0.2"], ["selection.cost", "if a budget is given", "0.2"]),
        (["selection.budget=null", "selection.cost=0.01"], ["selection.cost", "at least 0.0552", "0.01"]),
        (["selection.budget=null", "selection.cost=2"], ["selection.cost", "at most 1.05", "2"]),
        (["selection.budget=null", "selection.cost=-1"], ["selection.cost", "above 0", "-1"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_before_anything_is_trained_or_written(
    advcore, root, tmp_path, monkeypatch, bad_data, changes, parts
):
    changes = bad_data(changes) if isinstance(changes, str) else changes
    fits = []
    monkeypatch.setattr("advcore.training.trainer.Trainer.fit", lambda *_, **__: fits.append(1))
    code, out, err = advcore(
        "run", root / "experiments/trades_gradmatch.yaml", *sets(*changes), "--out", tmp_path / "run"
    )
    assert not fits
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "run").exists()


def test_memory_that_does_not_fit_is_a_line_with_figures(advcore, root, tmp_path, monkeypatch):
    monkeypatch.setattr("advcore.attacks.memory.measure_free_memory", lambda device: 1e5)
    change = sets("attack.start=remembered")
    for command, out in (("run", ["--out", tmp_path / "run"]), ("check", [])):
        code, _, err = advcore(command, root / "experiments/trades_gradmatch.yaml", *change, *out)
        assert code == 2 and err.count("\n") == 1, err
        assert "training.memory.place" in err and "0.000263 GB" in err and "0.0001 GB are free on cpu" in err
    assert not (tmp_path / "run").exists()


def test_a_wanted_cost_becomes_a_budget_that_the_record_keeps(run, advcore):
    folder = run("linf_gradmatch", "selection.budget=null", "selection.cost=0.25", "selection.period=1")
    record = RunRecord.load(folder / "record.json")
    assert record.inputs["selection.cost"] == 0.25 and record.config["selection"]["cost"] is None
    assert 0.2 < record.relative_cost <= 0.25
    budget = record.config["selection"]["budget"]
    assert all(one["k"] == round(budget * 144) for one in record.selections)
    assert advcore("evaluate", folder)[0] == 0
    assert from_dict(record.config).selection.budget == budget


def test_a_cost_that_cannot_be_met_closely_is_told(advcore, root):
    far = sets("selection.budget=null", "selection.cost=0.12", "selection.period=null")
    code, out, err = advcore("check", root / "experiments/trades_gradmatch.yaml", *far)
    assert code == 0 and "0.09 of full training, below the 0.12 asked for" in out, (out, err)
    near = sets("selection.budget=null", "selection.cost=0.2", "selection.period=null")
    assert "asked for" not in advcore("check", root / "experiments/trades_gradmatch.yaml", *near)[1]


def test_a_remembered_run_with_a_schedule_tells_what_it_did(run):
    folder = run(
        "trades_gradmatch", "attack.start=remembered", "selection.attack={name: linf_pgd, eps: 0.1, steps: 1}",
        "training.attack_steps={name: linear, first: 1, last: 3}", "training.memory={precision: int8, reset: 2}",
    )  # fmt: skip
    record = RunRecord.load(folder / "record.json")
    assert [entry["attack_steps"] for entry in record.epochs] == [1, 2, 3]
    errors = [(one["gradient_error_full"], one["gradient_error_full_noise"]) for one in record.selections]
    assert errors and all(error >= 0 and noise == 0 for error, noise in errors)  # all 144 are attacked in full
    assert all(one["gradient_error_full"] > one["gradient_error"] for one in record.selections)


@pytest.mark.slow
def test_check_offers_settings_for_a_cost(advcore, root):
    code, out, _ = advcore("check", root / "experiments/trades_gradmatch.yaml", "--cost", "0.2")
    assert code == 0 and "at most 0.2 of full training" in out and "selection.budget" in out and "all data" in out
    rows = [line for line in out[out.index("at most") :].splitlines() if line.startswith("│")]
    assert "gradient_matching" not in out and "margin, attacking" in out
    costs = [float(cell) for cell in (row.split("│")[-2] for row in rows) if cell.strip()]  # long cells fold
    assert len(costs) > 10 and max(costs) <= 0.2
    assert out.splitlines()[-2] == "attack.start: remembered costs no extra passes (docs/savings.md)"
    remembered = sets("attack={name: linf_pgd, eps: 0.1, steps: 5, start: remembered}")
    code, out, _ = advcore("check", root / "experiments/trades_gradmatch.yaml", "--cost", "0.2", *remembered)
    assert code == 0 and "costs no extra passes" not in out
    for cost, part in (("0.001", "at least 0.00"), ("0", "above 0")):
        code, _, err = advcore("check", root / "experiments/trades_gradmatch.yaml", "--cost", cost)
        assert code == 2 and err.count("\n") == 1 and "--cost" in err and part in err


@pytest.mark.parametrize("name", ["trades_full", "nfgsm_full", "fat_cyclic", "stability_trades", "selective_margin"])
def test_a_cost_can_be_asked_of_any_file(advcore, root, name):
    probe = sets("selection.solver={name: by_score}", "selection.probe_epochs=10") if name == "stability_trades" else []
    code, out, err = advcore("check", root / f"experiments/{name}.yaml", "--cost", "0.15", *probe)
    assert code == 0 and "at most 0.15 of full training" in out, err


def test_all_seeds_are_judged_by_the_same_images(root):
    """A part of the test set is drawn as the data's splits are: else a mean over seeds is one over images, too."""
    from advcore.run.run import choose_examples

    def drawn(*changes):
        config = load(root / "experiments/trades_gradmatch.yaml", ["evaluation.examples=40", *changes])
        return choose_examples(prepare(config)).tolist()

    first, other = drawn("seed=0"), drawn("data.split_seed=1")
    assert len(first) == 40 and first == drawn("seed=1") and first != other


POOLED_LAST = """
from torch import nn

import advcore.register


@advcore.register.model("pooled_last")
def build(num_classes, channels):
    return nn.Sequential(nn.Conv2d(channels, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.mark.case("G10")
def test_a_model_without_a_linear_head_is_refused(advcore, root, tmp_path):
    plugin = tmp_path / "pooled_last.py"
    plugin.write_text(POOLED_LAST)
    change = ("--plugin", plugin, *sets("model={name: pooled_last}"))
    code, _, err = advcore("run", root / "experiments/trades_gradmatch.yaml", *change, "--out", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1 and "Linear" in err and "pool the features before" in err, err


def test_a_model_of_another_image_size_is_refused(advcore, root, tmp_path):
    pytest.importorskip("timm", reason="needs the package timm")
    change = sets("model={name: 'timm:vit_tiny_patch16_224'}")
    code, _, err = advcore("run", root / "experiments/trades_gradmatch.yaml", *change, "--out", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1 and "model.name" in err


@pytest.mark.case("G10")
def test_a_head_can_be_named(run):
    assert RunRecord.load(run("linf_craig", "model.head='13'", *SMALLER) / "record.json").finished


def test_out_must_be_a_place_to_write(advcore, root, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = advcore("run", root / "experiments/linf_full.yaml", *sets(*tiny), "--out", tmp_path / "file/below")
    assert code == 2 and "--out" in err and err.count("\n") == 1


def test_select_repeats_the_runs_first_selection(run, advcore, root, tiny, tmp_path):
    folder = run("trades_random", *SMALLER)
    file, state = root / "experiments/trades_random.yaml", folder / "checkpoints/last.safetensors"
    assert advcore("select", file, "--checkpoint", state, *sets(*tiny, *SMALLER), "--out", tmp_path / "c.npz")[0] == 0
    made = Coreset.load(folder / "coresets/epoch-001.npz")
    assert torch.equal(Coreset.load(tmp_path / "c.npz").indices, made.indices)
    assert made.training_weights("none").mean() == pytest.approx(1)


def test_a_key_that_stands_twice_is_refused(advcore, root, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text((root / "experiments/trades_gradmatch.yaml").read_text() + "seed: 1\n")
    code, _, err = advcore("run", file, "--out", tmp_path / "run")
    assert code == 2 and "'seed'" in err and err.count("\n") == 1


def test_a_diverged_run_stops_with_3_and_one_line(advcore, root, tiny, tmp_path):
    file = root / "experiments/linf_full.yaml"
    changes = sets(*tiny, "training.optimizer.lr=1e30", "training.lr_schedule={name: constant}")
    code, _, err = advcore("run", file, *changes, "--out", tmp_path / "run")
    assert code == 3 and "epoch" in err and "Traceback" not in err


def test_a_wrong_option_is_the_users_mistake(advcore):
    assert advcore("run", "x.yaml", "--nope")[0] == 2
    assert advcore("run")[0] == 2
    assert advcore("fly")[0] == 2


def test_the_module_runs_as_a_process_whose_help_imports_next_to_nothing():
    """Only the command line itself and what prints it: importing torch alone takes seconds."""
    command = [sys.executable, "-X", "importtime", "-m", "advcore", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0 and "select" in shown.stdout
    lines = [line for line in shown.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.split("|")[2].strip() for line in lines}
    beside = {name for name in modules if name.startswith("advcore.") and not name.startswith("advcore.cli.")}
    assert beside <= {
        f"advcore.{name}"
        for name in (
            *("cli", "deprecation", "errors", "pixels", "suggestions", "terminal", "version"),
            *("runtime", "runtime.heap", "runtime.launcher", "runtime.signals", "runtime.threads"),
        )
    }
    heavy = ("torch", "numpy", "scipy", "sklearn", "pydantic", "yaml", "pyarrow", "safetensors", "jinja2")
    heavy += ("importlib.metadata", "email.message", "rich")
    assert "typer" in modules and modules.isdisjoint(heavy)


def test_a_mistake_in_a_process_has_no_traceback(root, tmp_path, monkeypatch):
    file = root / "experiments/trades_gradmatch.yaml"
    monkeypatch.setattr(sys, "argv", ["advcore", "run", str(file), "--set", "attack.eps=8"])
    process = Forked(cli.main, tmp_path)
    assert process.code() == 2 and process.stderr.count("\n") == 1 and "Traceback" not in process.stderr


def test_a_mistake_in_a_new_python_has_no_traceback(tmp_path):
    command = [sys.executable, "-m", "advcore", "run", str(tmp_path / "nowhere.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_with_130_and_what_was_done(root, tmp_path):
    import signal

    process = subprocess.Popen(
        [sys.executable, "-m", "advcore", "run", root / "experiments/linf_full.yaml", "--out", tmp_path / "run",
         *sets("data.train_size=400", "training.epochs=200")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while "epoch   1" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "stopped by SIGINT" in err and "Traceback" not in err
    record = RunRecord.load(tmp_path / "run/record.json")
    assert len(record.epochs) >= 1 and not record.finished and record.relative_cost > 0


KINDS = {
    "standard": ("standard", "null"),
    "pgd": ("pgd", "{name: linf_pgd, eps: 0.1, steps: 2}"),
    "trades": ("trades", "{name: linf_pgd, eps: 0.1, steps: 2}"),
    "MART": ("mart", "{name: linf_pgd, eps: 0.1, steps: 2}"),
    "l2": ("pgd", "{name: l2_pgd, eps: 0.5, steps: 2}"),
    "l1": ("pgd", "{name: l1_pgd, eps: 3, steps: 2}"),
    "Fast AT": ("pgd", "{name: linf_pgd, eps: 0.1, steps: 1, step_size: 0.125}"),
    "N-FGSM": ("pgd", "{name: n_fgsm, eps: 0.1}"),
    "FGSM-MEP": ("trades", "{name: fgsm_mep, eps: 0.1}"),
    "PAT": ("pgd", "{name: fast_lpa, eps: 0.3, steps: 2}"),
}
"""Objective and attack of what is trained."""


@covering("kind, solver", {kind: kind for kind in KINDS}, {name: name for name in ("random", "craig", "gradmatch")})
@pytest.mark.slow
def test_everything_trains_on_every_kind_of_coreset_and_says_which_attack(run, kind, solver):
    objective, attack = KINDS[kind]
    changes = [f"objective={{name: {objective}}}", f"attack={attack}", f"selection.solver={{name: {solver}}}"]
    record = RunRecord.load(run("linf_gradmatch", *changes, *SMALLER) / "record.json")
    assert record.finished and [one["solver"] for one in record.selections] == [solver]
    expected = from_dict(override(record.config, [f"attack={attack}"])).attack
    assert from_dict(record.config).attack == expected and record.config["objective"]["name"] == objective
    assert (record.ledger["attack"]["backward"] > 0) == (attack != "null")


@pytest.mark.slow
def test_an_external_network_is_another_runs(run, advcore, root, tiny, tmp_path):
    other = run("linf_full", out="other")
    attack = f"{{name: fast_lpa, eps: 0.3, steps: 2, network: {other}}}"
    small = ["objective={name: pgd}", *SMALLER, "training.epochs=2", "selection.warm_start=0"]
    folder = run("linf_gradmatch", f"attack={attack}", *small)
    record = RunRecord.load(folder / "record.json")
    assert record.config["attack"]["network"] == str(other)
    folder = run("linf_gradmatch", "attack={name: fast_lpa, eps: 0.3, steps: 2}", *small, out="own")
    own = RunRecord.load(folder / "record.json")
    assert record.ledger["attack"]["forward"] > own.ledger["attack"]["forward"]
    file = root / "experiments/linf_gradmatch.yaml"
    missing = "attack={name: fast_lpa, eps: 0.3, network: nowhere}"
    code, _, err = advcore("check", file, *sets(*tiny, missing))
    assert code == 2 and "nowhere/record.json is missing" in err


def test_any_state_dict_is_evaluated_and_its_verdicts_and_examples_are_kept(run, advcore, root, tiny, tmp_path):
    folder = run("linf_full")
    state, _ = load_tensors(folder / "checkpoints/last.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "theirs.pt")
    file, verdicts, kept = root / "experiments/linf_full.yaml", tmp_path / "v.npz", tmp_path / "x.npz"
    code, out, err = advcore(
        "evaluate", file, "--checkpoint", tmp_path / "theirs.pt", *sets(*tiny), "--out", tmp_path / "e.json",
        "--state", verdicts, "--examples", kept,
    )  # fmt: skip
    assert code == 0, err
    found = read_sealed(tmp_path / "e.json", "advcore-evaluation-1")
    record = RunRecord.load(folder / "record.json")
    assert {k: v for k, v in found.items() if k not in OF_WHAT} == record.final["last"]
    assert any(flag.startswith("weak: linf_pgd takes 3 steps") for flag in found["flags"]) and "flag" in out
    arrays, _ = load_arrays(kept)
    assert arrays["x_adv_0"].shape == (60, 1, 8, 8)
    assert arrays["right_0"].mean() == pytest.approx(found["attacks"][0]["accuracy"])
    code, _, err = advcore(
        "evaluate", file, "--checkpoint", tmp_path / "theirs.pt", *sets(*tiny, "seed=1"), "--state", verdicts
    )
    assert code == 2 and "another evaluation" in err
    code, _, err = advcore("evaluate", file, "--checkpoint", tmp_path / "theirs.pt", "--suite", "everything")
    assert code == 2 and "--suite must be one of" in err


@pytest.mark.parametrize(
    "change, told",
    [
        (
            "evaluation.attacks=[{name: n_fgsm, eps: 0.1}]",
            "evaluation.attacks.0.name must be an attack that stays in its ball",
        ),
        ("evaluation.attacks=[{name: fast_lpa, eps: 0.1}]", "set project: true"),
        (
            "evaluation.attacks=[{name: autoattack, eps: 8}]",
            "evaluation.attacks.0.eps must be a number in [0, 1], got 8",
        ),
        ("evaluation.attacks=[{name: autoatack, eps: 0.1}]", "autoattack"),
        ("attack={name: autoattack, eps: 0.1}", "attack"),
        ("attack={name: fast_lpa, eps: 0.1, layers: [nothing]}", "layers must be names of layers"),
    ],
)
def test_attacks_that_cannot_be_meant_are_refused_before_anything_runs(advcore, root, tmp_path, tiny, change, told):
    sizes = [one for one in tiny if one.startswith("data.")]
    file = root / "experiments/linf_gradmatch.yaml"
    code, _, err = advcore("run", file, *sets(*sizes, change), "--out", tmp_path / "run")
    assert code == 2 and told in err, err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_weights_of_the_body_alone_are_evaluated_too(run, advcore, root, tiny, tmp_path, kind):
    folder = run("linf_full")
    state, _ = load_tensors(folder / "checkpoints/last.safetensors")
    body = {f"module.{name.removeprefix('1.')}": value for name, value in state.items() if name.startswith("1.")}
    path = tmp_path / f"theirs.{kind}"
    torch.save({"net": body, "epoch": 3}, path) if kind == "pt" else save_file(body, path)
    file, record = root / "experiments/linf_full.yaml", RunRecord.load(folder / "record.json")
    code, _, err = advcore("evaluate", file, "--checkpoint", path, *sets(*tiny), "--out", tmp_path / "e.json")
    assert code == 0, err
    assert json.loads((tmp_path / "e.json").read_text())["attacks"] == record.final["last"]["attacks"]


def test_a_suite_and_its_files_are_checked_before_anything_runs(run, advcore, root, tiny, tmp_path):
    folder, file = run("linf_full"), root / "experiments/linf_full.yaml"
    state = folder / "checkpoints/last.safetensors"
    for option in ("--examples", "--state", "--out"):
        code, _, err = advcore("evaluate", file, "--checkpoint", state, *sets(*tiny), option, tmp_path)
        assert code == 2 and f"{option} must be a file" in err
    only = "evaluation.attacks=[{name: stadv}]"
    code, _, err = advcore("evaluate", file, "--checkpoint", state, *sets(*tiny[:2], only), "--suite", "autoattack")
    assert code == 2 and "--suite must be" in err
