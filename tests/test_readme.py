"""What README promises: its example runs, its tables are fresh."""

import re
import shlex
import statistics
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from advcore.files import read_json


class MyData(Dataset):
    """A user's own data."""

    def __len__(self) -> int:
        return 80

    def __getitem__(self, i: int):
        return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)), i % 5


class MyModel(nn.Module):
    """A user's own model, whose head is not called fc."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.to_classes = nn.Linear(288, 5)

    def forward(self, x):
        return self.to_classes(self.body(x))


def test_the_example_runs_with_a_users_own_model_and_data(root):
    change = re.search(r"<!-- example -->\n```diff\n(.*?)```", (root / "README.md").read_text(), re.S)[1].splitlines()
    code = "\n".join(line[1:] for line in change if not line.startswith("-"))
    torch.manual_seed(0)
    model = MyModel().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {"model": model, "dataset": MyData(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    names["epochs"] = 1
    exec(compile(code, "README.md", "exec"), names)
    coreset = names["coreset"]
    assert len(coreset) == 40 and model.training
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters()), "every weight is trained"
    x, x_adv = names["x"], names["x_adv"]
    assert x.shape[1:] == (3, 8, 8) and 0 < float((x_adv - x).abs().max()) <= 8 / 255 + 1e-6
    assert torch.isfinite(names["losses"]).all() and float(coreset.training_weights().mean()) == pytest.approx(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    assert len(change) <= 18 and len([line for line in change if line.startswith("+")]) <= 5


def test_every_committed_table_comes_from_the_committed_records(root, tables):
    readme = (root / "README.md").read_text()
    assert tables.readme_text() == readme
    for suite in tables.PAGES:
        assert (root / "benchmarks" / f"{suite}.md").read_text() == tables.text(suite)
    assert (root / "benchmarks/minibatch.md").read_text() == tables.study_text()
    assert (root / "docs/evidence.md").read_text() == tables.evidence_text()
    strong = {
        name: records[0].final["last"]["attacks"][0] for name, records in tables.groups("minibatch-strong").items()
    }
    assert (
        strong["MNIST, margin"]["interval"][1] < strong["MNIST, random"]["interval"][0]
    )  # what the page says in short


def test_the_page_of_diagnostics_comes_from_its_record(script):
    diagnostics = script("diagnostics_page")

    assert diagnostics.PAGE.read_text() == diagnostics.page(read_json(diagnostics.RECORD)) and diagnostics.PLOT.exists()


def test_the_front_page_begins_with_what_it_is_the_picture_and_a_command(root, tables):
    """In 40 lines: what it is, for whom, what to type first, what half the cost loses; at most two tables in all."""
    lines = (root / "README.md").read_text().splitlines()
    first = "\n".join(lines[:40])
    assert len(lines) <= 160
    assert next(i for i, line in enumerate(lines) if "<img" in line) < 15
    assert next(i for i, line in enumerate(lines) if line.startswith("advcore ")) < 20
    assert len([line for line in lines if line.startswith("| --- ")]) <= 2
    assert all(door in first for door in ("**You compare methods", "**You harden", "**You have a training loop"))
    assert tables.readme_page.describe_half(tables.groups("main-cifar10")) in first
    assert len(tables.readme_page.ROWS) <= 8 and set(tables.readme_page.ROWS) <= set(tables.groups("main-cifar10"))
    assert all(path.exists() and path.name in "\n".join(lines[:12]) for path in tables.readme_page.PICTURES.values())


def test_the_output_that_the_front_page_shows_is_what_its_commands_print(root, advcore, tmp_path, monkeypatch):
    text = (root / "README.md").read_text()
    shown = re.findall(r"^(advcore (?:recommend|check) [^\n]*)\n```\n\n```text\n(.*?)```", text, re.S | re.M)
    monkeypatch.chdir(tmp_path)
    assert len(shown) == 2
    for command, output in shown:
        words = shlex.split(command.replace("experiments/", f"{root}/experiments/"), comments=True)[1:]
        code, printed, err = advcore(*words)
        assert code == 0, err
        assert all(line in printed.splitlines() for line in output.splitlines())


def mask_decimals(line: str) -> str:
    """Return a printed line without its decimals and without the frame of its table."""
    return " ".join(re.sub(r"\d+\.\d+", "#", line).replace("│", " ").split())


@pytest.mark.slow
def test_the_output_of_a_run_that_the_front_page_shows_is_what_it_prints(root, advcore, tmp_path, monkeypatch):
    """Plan, counts and words are equal; decimals depend on the processor's sums and on its speed."""
    text = (root / "README.md").read_text()
    commands, output = re.search(
        r"```\n(advcore run [^\n]*\nadvcore report [^\n]*)\n```\n\n```text\n(.*?)```", text, re.S
    ).groups()
    monkeypatch.chdir(tmp_path)
    printed = []
    for command in commands.splitlines():
        words = shlex.split(command.replace("experiments/", f"{root}/experiments/"), comments=True)[1:]
        code, out, err = advcore(*words)
        assert code == 0, err
        printed += out.splitlines()
    assert output.splitlines()[0] in printed
    masked = [mask_decimals(line) for line in printed]
    assert [line for line in output.splitlines() if mask_decimals(line) not in masked] == []


def mean_gap(found, one, other):
    """Difference of mean robust accuracies over the seeds that both have, in points."""
    from figures import gap

    return gap(found, one, other).mean


def test_the_study_compares_every_rule_with_its_baselines(root, tables):
    text = (root / "benchmarks/minibatch.md").read_text()
    page = tables.minibatch_page
    tested = page.test(tables.titled(tables.STUDY))
    assert len(tested) == 24 and "24 comparisons were made. Each is a paired t-test" in text
    for suite in tables.STUDY:
        found = tables.groups(suite)
        for rule, others in page.BASELINES.items():
            for other in others:
                assert re.search(rf"- {rule} compared with {other}.*: (better|worse|not beyond chance) ", text), (
                    suite,
                    rule,
                )
        costs = {name: records[0].relative_cost for name, records in found.items()}
        assert costs["margin"] <= 0.45 and abs(costs["random"] - costs["margin"]) < 0.01
        for dear, fair in (("coreset", "random coreset"), ("coreset x margin", "random coreset x random")):
            assert abs(costs[dear] - costs[fair]) < 0.01
        few = next(name for name in found if name.startswith("fewer steps"))
        for rule, others in page.BASELINES.items():  # what the page says in short
            assert mean_gap(found, rule, others[0]) < 0 and mean_gap(found, rule, few) < 0


def test_the_solver_page_comes_from_its_records_and_no_limit_is_missed_unsaid(root, script):
    solver_page = script("solver_page")
    records = {path.stem: read_json(path) for path in (root / "benchmarks/records/solvers").glob("*.json")}
    page = (root / "benchmarks/solvers.md").read_text()
    assert records and set(records) <= set(solver_page.SECTIONS)
    assert ("growth" in records) == (root / "benchmarks/solvers.png").exists()
    assert page == f"{solver_page.text(records)}\n"
    assert not any(record["settings"]["quick"] for record in records.values())


@pytest.mark.slow
def test_the_solver_benchmark_runs_small(root, tmp_path, script):
    command = [sys.executable, str(root / "benchmarks/measure/solvers.py"), "peers", "--quick", "--threads", "1"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    cells = read_json(tmp_path / "peers.json")["results"]["cells"]
    assert {cell["solver"] for cell in cells} == {"GradMatch", "CRAIG"}
    assert all(peer["seconds"] > 0 for cell in cells for peer in cell["peers"])
    assert "a small run" in script("solver_page").text({"peers": read_json(tmp_path / "peers.json")})


def test_the_masking_page_comes_from_its_record_and_holds_what_it_claims(script):
    """Ours within a point of foolbox, AutoAttack not above it beyond the interval, only the masked model flagged."""
    masking = script("masking_page")

    record = read_json(masking.RECORD)
    assert masking.PAGE.read_text() == masking.page(record)
    assert record["settings"] == {"eps": 0.3, "step_size": 0.0125, "steps": 50, "restarts": 10, "quick": False}
    for one in record["models"].values():
        ours, foolbox, auto = (one["attacks"][name] for name in ("ours", "foolbox", "AutoAttack"))
        assert ours["n"] == foolbox["n"] == auto["n"] == 1000
        assert abs(ours["accuracy"] - foolbox["accuracy"]) <= 0.01
        assert auto["accuracy"] <= ours["interval"][1]
    flags = {name: [flag.split(":")[0] for flag in one["flags"]] for name, one in record["models"].items()}
    assert flags == {"FGSM training": ["masked"], "PGD-7 training": []}


def test_remembering_takes_less_than_3_percent_of_an_epoch(script):
    memory = script("memory_page")

    record = read_json(memory.RECORD)
    assert memory.PAGE.read_text() == memory.page(record)
    assert record["settings"] == {"images": 1000, "turns": 10, "quick": False}
    assert len(record["ratios"]) == 6 and all(len(found) == 10 for found in record["ratios"].values())
    assert all(statistics.median(found) < 1.03 for found in record["ratios"].values())


def test_saving_takes_less_than_2_percent_of_an_epoch(script):
    checkpoint_cost = script("checkpoint_cost_page")

    record = read_json(checkpoint_cost.RECORD)
    assert checkpoint_cost.PAGE.read_text() == checkpoint_cost.page(record)
    assert not record["quick"] and len(record["epochs"]) == len(record["saves"]) == 21
    assert set(record["actions"]) == {"full", "select", "reuse"}
    assert statistics.median(checkpoint_cost.shares(record)) < 0.02


def test_beside_busy_processes_a_run_takes_at_most_three_times_as_long(script):
    """Medians of five."""
    threads = script("threads_page")

    record = read_json(threads.RECORD)
    assert threads.PAGE.read_text() == threads.page(record)
    assert threads.sentence(record) in threads.SPEED.read_text()
    assert record["epochs"] == 6 and record["busy"] == 2
    for variant, conditions in record["seconds"].items():
        assert len(conditions["alone"]) == 5 and len(conditions["busy"]) == (5 if variant == "advcore" else 1)
    assert threads.ratio(record, ("advcore", "busy"), ("advcore", "alone")) < 3
    for variant in record["seconds"]:
        assert threads.ratio(record, ("advcore", "alone"), (variant, "alone")) < 1.3


def test_the_savings_page_comes_from_its_records_and_asks_what_it_must(root, tables):
    """Within 1.5 points of full training at a quarter of its cost; every pair three times; a picture beside it."""
    savings_page = tables.savings_page

    assert (root / "benchmarks" / "savings.md").read_text() == tables.savings_text()
    assert (root / "benchmarks" / "savings.png").stat().st_size > 10_000
    found = tables.groups("savings") | tables.groups("savings-parts")
    robust = {name: statistics.fmean(savings_page.robust(records)) for name, records in found.items()}
    cheap = [name for name, records in found.items() if savings_page.cost(found, name) <= savings_page.QUARTER]
    assert max(robust[name] for name in cheap) >= robust["full (PGD-7)"] - 1.5
    for one, two in (pair for pairs in savings_page.QUESTIONS.values() for pair in pairs):
        assert len(found[one]) == len(found[two]) == 3
    assert set(savings_page.front(found)) <= set(tables.groups("savings-strong"))
    best = savings_page.front(found)
    assert all(
        not (savings_page.cost(found, other) <= savings_page.cost(found, name) and robust[other] > robust[name])
        for name in best
        for other in found
    )


def test_the_main_table_has_every_baseline_in_every_block_at_its_cost(root, tables):
    page, found = tables.main_page, tables.groups("main-cifar10")
    assert (root / "benchmarks/main.md").read_text() == tables.main_text()
    assert all(len(records) == 3 for records in found.values())
    for key, names in page.blocks(found).items():
        others = [page.short(name) for name in names]
        if key:
            assert {"random", "shortened", "CRAIG", "GradMatch", "EasyCore, early scores"} <= set(others)
            assert any(other.startswith(("FAT", "PGD-")) for other in others)
            dear = [
                name for name in names if abs(tables.savings_page.cost(found, name) - float(key)) > 0.1 * float(key)
            ]
            assert set(map(page.short, dear)) <= set(page.SINGLE)
    assert set(page.front(found)) - {"GradMatch x margin @ 0.15"} <= set(tables.groups("main-strong"))
    mnist = tables.groups("main-mnist")
    assert all(len(records) == 3 for records in mnist.values())
    assert set(page.front(mnist)) <= set(tables.groups("main-mnist-strong"))


def test_what_the_pages_claim_is_what_the_corrected_tests_let_stand(root, tables):
    """All of it, with its p-value, and after the correction for its page's comparisons."""
    cifar, mnist = (tables.suite_of(f"main-{name}").title for name in ("cifar10", "mnist"))
    claims = {key: (one.verdict, one.estimate.p, one.corrected, one.among) for key, one in tables.claims().items()}
    recipes = {key: claims.pop(key) for key in list(claims) if key[0] in ("finetune", "recipes")}
    reattack = {key[1]: claims.pop(key) for key in list(claims) if key[0] == "reattack"}
    page = tables.main_page
    composed = next(iter(page.AGAIN))
    easycore = "EasyCore's coreset with early scores, compared with random subsets of the same cost"
    assert claims == {
        ("main", mnist, easycore): ("below", pytest.approx(0.0028, abs=5e-5), pytest.approx(0.047, abs=5e-4), 18),
        ("main", page.AT_BEST, composed): (
            *("below", pytest.approx(0.0022, abs=5e-5), pytest.approx(0.039, abs=5e-4), 18),
        ),
        ("minibatch", tables.suite_of("minibatch-mnist").title, "margin compared with random"): (
            *("below", pytest.approx(0.0017, abs=5e-5), pytest.approx(0.040, abs=5e-4), 24),
        ),
    }
    assert ("main", cifar, easycore) not in claims
    trained, head, _ = tables.recipes_page.FINETUNE
    assert recipes == {
        ("finetune", "last", trained): ("beats", pytest.approx(0.0087, abs=5e-5), pytest.approx(0.026, abs=5e-4), 3),
        ("finetune", "last", head): ("below", pytest.approx(0.0204, abs=5e-5), pytest.approx(0.041, abs=5e-4), 3),
        ("recipes", "last", "AWP, compared with the same compute in more epochs"): (
            *("below", pytest.approx(0.0095, abs=5e-5), pytest.approx(0.048, abs=5e-4), 5),
        ),
        ("recipes", "last", "CutMix, compared with FAT"): (
            *("below", pytest.approx(0.0109, abs=5e-5), pytest.approx(0.048, abs=5e-4), 5),
        ),
    }
    assert reattack == {
        "all, as many updates": ("beats", pytest.approx(0.0118, abs=5e-5), pytest.approx(0.035, abs=5e-4), 7),
        "all, growing ball": ("beats", pytest.approx(0.0070, abs=5e-5), pytest.approx(0.028, abs=5e-4), 7),
        "random": ("beats", pytest.approx(0.0036, abs=5e-5), pytest.approx(0.018, abs=5e-4), 7),
        "low p_y": ("beats", pytest.approx(0.0002, abs=5e-5), pytest.approx(0.002, abs=5e-4), 7),
        "oldest": ("beats", pytest.approx(0.0013, abs=5e-5), pytest.approx(0.008, abs=5e-4), 7),
    }
    pages = ["README.md", "docs/evidence.md", *(f"benchmarks/{name}.md" for name in ("main", "minibatch", "savings"))]
    told = "\n".join((root / name).read_text() for name in pages)
    assert not re.search(r"\b(beats|loses to|is level with|beyond the spread|helps \(|better \()", told)
    assert len(re.findall(r"(?:hurts|worse) \(", told)) == len(claims)


def test_what_the_page_of_minibatch_rules_says_of_attacking_a_share_again(tables):
    found, digits = tables.groups("reattack"), tables.groups("digits")
    rules = [mean_gap(found, name, "all") for name in ("random", "low p_y", "oldest")]
    assert all(14 < gap < 16 for gap in rules) and max(rules) - min(rules) < 1
    assert mean_gap(found, "all, growing ball", "all") > max(rules)
    for name in ("random, growing ball", "low p_y, growing ball"):
        assert mean_gap(found, name, "all, growing ball") < 0
    assert 0 < -mean_gap(digits, "half attacked again, PGD-2", "full") < 1
    assert all(record.relative_cost < 0.34 for record in digits["half attacked again, PGD-2"])


def test_what_the_page_of_fine_tuning_says_in_short_is_in_its_records(root, tables):
    assert (root / "benchmarks/finetune.md").read_text() == tables.finetune_text()
    found = tables.groups("finetune")
    robust, clean = {}, {}
    for name, records in found.items():
        robust[name] = statistics.fmean(tables.savings_page.robust(records))
        clean[name] = statistics.fmean(100 * record.final["last"]["clean"]["accuracy"] for record in records)
        assert len(records) == 3
    assert clean["fine-tuned, 2 epochs"] - clean["random weights, 2 epochs"] == pytest.approx(10.7, abs=0.1)
    assert clean["fine-tuned, 5 epochs"] - clean["random weights, 5 epochs"] == pytest.approx(6.7, abs=0.1)
    assert robust["random weights, 13 epochs"] - robust["fine-tuned, 5 epochs"] == pytest.approx(0.64, abs=0.01)
    assert clean["fine-tuned, 5 epochs"] - clean["random weights, 13 epochs"] == pytest.approx(2.4, abs=0.1)
    assert robust["fine-tuned, 2 epochs"] - robust["fine-tuned, head first, 2 epochs"] == pytest.approx(2.7, abs=0.1)
    assert abs(robust["fine-tuned, 5 epochs"] - robust["fine-tuned, head first, 5 epochs"]) < 0.5
    costs = {name: records[0].relative_cost for name, records in found.items()}
    (passes,) = {record.pretraining["passes"] for record in found["fine-tuned, 5 epochs"]}
    pretraining = passes / found["fine-tuned, 5 epochs"][0].reference["units"]
    assert costs["random weights, 13 epochs"] == pytest.approx(costs["fine-tuned, 5 epochs"] + pretraining, rel=0.05)


def test_the_page_of_recipes_comes_from_its_records(root, tables):
    assert (root / "benchmarks/recipes.md").read_text() == tables.recipes_page.recipes_text(tables.groups("recipes"))


def test_what_the_main_page_says_in_words_is_in_its_records(tables):
    page, first, others = tables.main_page, tables.groups("main-cifar10"), tables.groups("main-repeat")
    robust = {name: tables.savings_page.robust(records) for name, records in first.items()}
    for found, least in ((first, 0.4), (others, 0.3)):
        for method, other in page.QUESTIONS[page.MEMORY][:4]:
            if {method, other} <= found.keys():
                assert least < mean_gap(found, method, other) < 0.65
    (composed, chance), (_, fast), (_, whole) = (pairs[0] for pairs in list(page.AGAIN.values())[:3])
    assert mean_gap(others, composed, chance) == pytest.approx(0.29, abs=0.01)
    assert abs(mean_gap(others, composed, whole)) < 0.2
    assert all(mean_gap(first, composed, other) > 0 for other in (chance, fast))
    assert all(
        one > full for one, full in zip(robust["one step, remembered, 40 epochs @ 0.5"], robust["full"], strict=True)
    )
    for method in ("GradMatch", "CRAIG"):  # README
        assert 0 < -mean_gap(first, f"{method} @ 0.5", "full") < 1
    for block in ("0.5", "0.3", "0.15"):
        single = [name for name in page.blocks(first)[block] if page.short(name).startswith("one step, remembered")]
        best = max(statistics.fmean(robust[name]) for name in page.blocks(first)[block])
        assert any(statistics.fmean(robust[name]) > best - 0.1 for name in single)
        for solver in ("GradMatch", "CRAIG"):
            assert abs(mean_gap(first, f"{solver} @ {block}", f"random @ {block}")) < 0.5
        assert mean_gap(first, f"EasyCore, early scores @ {block}", f"random @ {block}") < -3


def all_robust(records):
    """Robust accuracies, in percent, of all runs, those that collapsed included."""
    return [100 * one.final["last"]["attacks"][0]["accuracy"] for one in records]


def test_what_the_main_page_says_of_mnist_is_in_its_records(tables):
    page, found = tables.main_page, tables.groups("main-mnist")
    robust = {name: tables.savings_page.robust(records) for name, records in found.items()}
    assert all(max(robust[name]) < 2 for name in ("FAT", "N-FGSM"))
    assert all("masked" in flag for name in ("FAT", "N-FGSM") for r in found[name] for flag in r.final["last"]["flags"])
    short = {b: f"FAT, short steps, {n} epochs @ {b}" for b, n in (("0.5", 40), ("0.3", 24), ("0.15", 12))}
    assert sorted(one < 10 for name in short.values() for one in all_robust(found[name])) == [False] * 7 + [True] * 2
    mine = {b: name.replace("FAT, short steps,", "one short step, remembered,") for b, name in short.items()}
    for block in ("0.5", "0.3"):
        assert all(one - full > 6 for one, full in zip(robust[mine[block]], robust["full"], strict=True))
        others = [name for name in page.blocks(found)[block] if name != mine[block]]
        assert all(max(robust[name]) < min(robust[mine[block]]) + 1 for name in others)
    strong = {
        name: records[0].final["last"]["attacks"][0] for name, records in tables.groups("main-mnist-strong").items()
    }
    for block in ("0.5", "0.3"):  # neither accuracy is outside the other's interval
        one, full = strong[mine[block]], strong["full"]
        assert full["interval"][0] < one["accuracy"] < full["interval"][1]
        assert one["interval"][0] < full["accuracy"] < one["interval"][1]
    for name in (mine["0.15"], "PGD-2, remembered, 8 epochs @ 0.15"):
        assert sorted(one < 10 for one in all_robust(found[name])) == [False, False, True] and len(robust[name]) == 2
    for block in ("0.5", "0.3", "0.15"):
        for solver in ("GradMatch", "CRAIG"):
            assert mean_gap(found, f"{solver} @ {block}", f"random @ {block}") < 0
    for solver in ("GradMatch", "CRAIG", "random"):
        assert mean_gap(found, f"{solver} @ 0.5", "PGD-3 @ 0.5") < -20
        assert 19 < -mean_gap(found, f"{solver} @ 0.5", "full") < 23  # README, and of digits below
    digits = tables.groups("digits")
    for solver in ("GradMatch", "CRAIG"):
        assert 1 < -mean_gap(digits, solver, "full") < 2.5
    assert 3 < -mean_gap(digits, "random", "full") < 5


VARIATIONS = ("minibatch-strong", "minibatch-factors", "savings-parts", "savings-long", "savings-strong", "why")
VARIATIONS += ("main-repeat", "main-strong", "main-mnist-strong", "finetune", "finetune-search", "recipes", "reattack")
VARIATIONS += ("reattack-mnist", "reattack-cifar10", "reattack-mnist-60000", "pools", "pools-redundant")
VARIATIONS += ("tune-cifar10", "tune-mnist", "anchor-cifar10", "anchor-mnist")
"""Suites of runs that stand beside another suite's."""
WAITING = ("cifar10-gpu-trades", "cifar10-gpu-linf")
"""Suites that wait for a GPU: without all of their records yet."""
NOT_RUN: dict[str, set[str]] = {}
"""Methods of other suites that have no records yet: they go from here when the suite is run again."""


def test_every_table_holds_what_one_would_do_instead(root, script, tables):
    schedule = script("schedule_page")
    scheduled = {part.suite for parts, _ in schedule.STUDIES.values() for part in parts}
    for path in (root / "benchmarks/suites").glob("*.yaml"):
        name, suite = path.stem, tables.suite_of(path.stem)
        assert suite.name == name and suite.records.resolve() == root / "benchmarks/records" / name
        methods, seeds, found = suite.methods, suite.seeds, tables.groups(name)
        if name not in VARIATIONS:
            assert any(method.startswith("random") for method in methods)
            assert any(method.startswith("shortened") for method in methods)
            assert any(method.startswith(("fewer steps", "PGD-2", "PGD-3", "all")) for method in methods)
        if name in scheduled:  # its page says how many runs are done
            assert set(found) <= set(methods)
        elif name not in WAITING:
            assert set(found) == set(methods) - NOT_RUN.get(name, set())
            assert all(len(records) == len(seeds) for records in found.values()) or name in VARIATIONS


def test_the_coreset_runs_keep_what_the_experiments_claim(tables):
    """The headers of experiments/trades_*.yaml: within 3 points of full training at 0.6 of its cost."""
    found = tables.groups("digits")
    robust = {m: sum(r.final["last"]["attacks"][0]["accuracy"] for r in rs) / len(rs) for m, rs in found.items()}
    for method in ("GradMatch", "CRAIG"):
        assert robust[method] >= robust["full"] - 0.03
        assert all(record.relative_cost <= 0.60 for record in found[method])
        assert all(s["gradient_error"] < s["gradient_error_random"] for r in found[method] for s in r.selections)


def test_what_the_evidence_page_says_in_words_is_in_its_records(tables):
    page, found = tables.evidence_page, tables.groups("why")

    def error(name):
        return statistics.fmean(s["gradient_error_trained"] for r in found[name] for s in r.selections)

    def gap(pair):
        return mean_gap(found, *pair)

    mine, chance = error("GradMatch"), [s["gradient_error_random"] for r in found["GradMatch"] for s in r.selections]
    assert 10 * mine < statistics.fmean(chance) and error("GradMatch, weights dropped") > 10 * mine
    for name in ("GradMatch, weights dropped", "GradMatch, every epoch", "GradMatch, selected by PGD-7"):
        assert abs(gap((name, "GradMatch"))) < 0.5
    stale = read_json(tables.BENCHMARKS / "records/staleness.json")["found"]
    for seed, after in enumerate(stale["gradmatch"]):
        assert all(5 * one["coreset"] < one["random subset"] for one in after)
        assert all(one["batch"] > 1 for one in after[1:])  # while it is trained on
        assert all(one["loss inside"] > one["loss outside"] for one in stale["craig"][seed])
    for worse, than in (
        ("random, one subset", "random"),
        ("EasyCore, early scores", "random"),
        ("GradMatch, bias rows", "GradMatch"),
    ):
        assert gap((worse, than)) < -0.5
    whole = [s["weight_sum"] for r in found["GradMatch, whole"] for s in r.selections]
    assert max(whole) < 0.5 and gap(("GradMatch, whole, normalise none", "GradMatch, whole")) > 2
    assert gap(("GradMatch", "random of GradMatch's cost")) < 0
    tested = page.test(found)
    assert len(tested) == 7 and {one.verdict for one in tested.values()} == {"level"}
    assert tested["why", "Duplicates, coresets compared with random subsets of their size"].estimate.p == pytest.approx(
        0.17, abs=0.01
    )
