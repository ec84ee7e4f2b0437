"""A suite file: what it may hold, what it becomes, and whether records are its own."""

import re
from dataclasses import asdict

import pytest

from advcore.config import yaml_reader
from advcore.config.run_key import hash_settings, identify, identify_record, list_differences
from advcore.config.yaml_reader import read
from advcore.errors import ConfigError
from advcore.reporting.record import RunRecord
from advcore.suite import layout as suite_file
from advcore.suite import suite as suites
from advcore.suite.layout import BASELINES, expand_grids, list_added, list_left_out, make_slug
from advcore.suite.runs import list_runs, shard
from advcore.suite.splits import choose_vary_split
from advcore.suite.suite import load, resolve_methods

EXPERIMENT = "experiments/trades_gradmatch.yaml"


@pytest.fixture
def suite(root, tmp_path):
    """Write a suite beside the experiments, and load it."""

    def made(text: str, size=None, overrides=()):
        path = tmp_path / "suite.yaml"
        path.write_text(f"name: toy\nexperiment: {root / EXPERIMENT}\n{text}")
        return load(path, size, overrides)

    return made


def test_the_split_of_the_data_varies_with_the_seed_unless_the_suite_says_no(suite):
    text = "seeds: [3, 1]\nreference: null\nbaselines: false\nmethods: {half: {}}\n"
    fixed, varied = [(3, 0), (1, 0)], [(3, 3), (1, 1)]
    for vary, expected in (("", varied), ("vary_split: true\n", varied), ("vary_split: false\n", fixed)):
        one = suite(text + vary)
        assert [(run.seed, run.config.data.split_seed) for run in list_runs(one, resolve_methods(one))] == expected
    one = suite(text + "set: {data.split_seed: 2}\n")
    assert {run.config.data.split_seed for run in list_runs(one, resolve_methods(one))} == {2}
    with pytest.raises(ConfigError) as caught:
        suite(text + "vary_split: 2\n")
    assert str(caught.value) == "vary_split must be true or false, got 2"
    with pytest.raises(ConfigError) as caught:
        suite(text + "vary_split: true\nset: {data.split_seed: 2}\n")
    assert str(caught.value) == (
        "vary_split must be left out, or false, where data.split_seed is set, got True; "
        "half: data.split_seed would have no effect"
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"selection": {"solver": {"name": "random", "scores": None}}}, True),
        ({"selection": None, "model": {"weights": "of method full"}}, True),
        ({"selection": {"solver": {"name": "aign", "scores": "scores.npz"}}}, False),
        ({"model": {"name": "small_cnn", "weights": "trained.safetensors"}}, False),
        ({"data": {"split_seed": 0}}, False),
        ({"data": "digits"}, True),
    ],
)
def test_what_is_of_one_data_split_binds_the_suite_to_it(settings, expected):
    assert choose_vary_split(None, {"full": {"selection": None}, "one": settings}) is expected
    assert choose_vary_split(False, {"one": settings}) is False


def test_methods_are_the_experiment_with_the_suites_the_sizes_and_their_own_changes(suite):
    text = """
seeds: [3, 1]
set: {training.epochs: 10, attack.eps: 8/255, model.width: 8}
methods:
  full: {selection: null}
  half: {model.width: 4}
sizes: {small: {set: {training.epochs: 5}, seeds: [0], title: tiny}, large: {}}
"""
    small, large = suite(text, "small", ["attack.steps=3"]), suite(text, "large")
    found = resolve_methods(small)
    assert found["full"].selection is None and found["half"].selection.budget == 0.5
    assert [found[name].model.width for name in ("full", "half")] == [8, 4]
    assert found["half"].training.epochs == 5 and found["half"].attack.steps == 3
    assert found["half"].attack.eps == pytest.approx(8 / 255)
    assert (small.seeds, large.seeds, small.title, large.title) == ((0,), (3, 1), "tiny", "toy")
    assert [(one.method, one.seed) for one in list_runs(large, resolve_methods(large))] == [
        ("full", 3), ("half", 3), ("full", 1), ("half", 1)
    ]  # fmt: skip


def test_what_costs_are_relative_to_is_set_once_for_the_suite(suite):
    found = resolve_methods(suite("methods: {full: {selection: null, attack.steps: 7}, short: {training.epochs: 4}}"))
    assert {(one.cost.reference_steps, one.cost.reference_epochs) for one in found.values()} == {(7, 30)}
    found = resolve_methods(suite("set: {cost.reference_steps: 5}\nmethods: {full: {}, short: {training.epochs: 4}}"))
    assert {(one.cost.reference_steps, one.cost.reference_epochs) for one in found.values()} == {(5, 30)}


def test_the_references_steps_may_be_its_attacks_default(suite):
    text = "methods: {full: {selection: null, attack: {name: ppgd, eps: 0.5}, objective: {name: pgd}}}"
    assert resolve_methods(suite(text))["full"].cost.reference_steps == 40


def test_a_grid_without_an_experiment_is_told(tmp_path):
    (tmp_path / "suite.yaml").write_text("name: toy\ngrid: {training.epochs: [1]}\nreference: null\n")
    with pytest.raises(ConfigError, match="grid must be given an experiment"):
        load(tmp_path / "suite.yaml")


def test_a_grid_becomes_methods_with_readable_names(suite):
    text = """
methods:
  full: {selection: null}
  GradMatch: {grid: {selection.budget: [0.1, 0.5], selection.period: [null, 4]}}
  "{solver} @ {budget}":
    grid: {selection.solver: {CRAIG: {name: craig}}, selection.budget: [0.3]}
grid: {objective.name: [pgd], selection.warm_start: [0.5, 0.6]}
set: {objective: {name: trades}}
"""
    found = resolve_methods(suite(text))
    assert list(found) == [
        "full",
        "GradMatch, budget 0.1, period null", "GradMatch, budget 0.1, period 4",
        "GradMatch, budget 0.5, period null", "GradMatch, budget 0.5, period 4",
        "CRAIG @ 0.3",
        "pgd, warm_start 0.5", "pgd, warm_start 0.6",
    ]  # fmt: skip
    one = found["GradMatch, budget 0.1, period null"].selection
    assert (one.budget, one.period) == (0.1, None) and found["CRAIG @ 0.3"].selection.budget == 0.3


def test_names_of_files_are_those_of_the_records_that_exist():
    assert make_slug("GradMatch @ 0.5", 1) == "gradmatch-0-5-s1"
    assert make_slug("fewer steps (PGD-4)", 0) == "fewer-steps-pgd-4-s0"


WRONG = {
    "mehtods: {}": "mehtods is not a setting of a suite; did you mean 'methods'?",
    "methods: {full: {}}\nseeds: [1, 1]": "seeds must be a list of different whole numbers, got [1, 1]",
    "methods: {full: {}}\nseeds: [x]": "seeds must be a whole number of at least",
    "methods: {full: {}}\nreference: fulll": "reference must be a method, or null, got 'fulll'; did you mean 'full'?",
    "methods: {a: {}}": "reference must be a method, or null, got 'full'",
    "methods: {full: 3}": "method 'full' must be a mapping of dotted settings, got 3",
    "methods: {full: {cost.reference_steps: 3}}": "method 'full': cost is the whole suite's",
    "methods: {full: {seed: 3}}": "method 'full': 'seed' is not a setting that a suite may change",
    "methods: {full: {grid: {selection.budget: 3}}}": "grid.selection.budget must be a list of values",
    "methods: {full: {}, b: {grid: {selection: [{budget: 1}]}}}": "must be a mapping of names to values where",
    "methods: {full: {}}\nbaselines: {shortned: false}": "baselines.shortned is none; did you mean 'shortened'?",
    "methods: {full: {}}\nbaselines: {fat: 3}": "baselines.fat must be true or false, got 3",
    "methods: {full: {}}\nbaselines: [fat]": "baselines must be false, or a mapping of random, random_static,",
    "methods: {full: {}}\nreference: null": "baselines must be false where reference is null, got None",
    "methods: {full: {}}\nreference: null\nbaselines: {fat: false}": "baselines must be false where reference is null",
    "methods: {full: {}}\nsizes: {s: {methods: {}}}": "sizes.s.methods is not a setting of a size",
    "methods: {full: {}, a b: {}, a-b: {}}": "methods must be distinguishable by letters and digits, "
    "got ['a b', 'a-b']",
    "methods: {full: {}, 0.5: {}}": "methods must be named with text, got 0.5; put it into quotes",
    "methods: {full: {}, null: {}}": "methods must be named with text, got None",
    'methods: {full: {}, "a\\nb": {}}': "methods must be named in a line of at most 120 characters, got 'a\\nb'",
    f"methods: {{full: {{}}, {'a' * 300}: {{}}}}": "methods must be named in a line of at most 120 characters",
    "methods: {full: {}}\ngrid: {attack: {é: {name: stadv}}}": "methods must be named with letters (a to z) or digits",
    "methods: {full: {}, b: {grid: {cost.reference_steps: [3]}}}": "method 'b': grid: cost is the whole suite's",
    "methods: {full: {}}\nsizes: {1: {}}": "sizes must be text of letters",
    "set: 3\nmethods: {full: {}}": "set must be a mapping of dotted settings",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_a_suite_has_wrong_is_told_in_a_line(suite, text):
    with pytest.raises(ConfigError) as error:
        suite(text)
    assert WRONG[text] in str(error.value)


def test_all_problems_of_all_methods_come_at_once_with_their_names(suite):
    text = "methods: {full: {attack.stepz: 3}, b: {training.epochs: x, selection.budget: 3}, c: {selection.budget: 3}}"
    with pytest.raises(ConfigError) as error:
        resolve_methods(suite(text))
    told = error.value.lines
    assert any(line.startswith("method 'full': attack.stepz is not a setting of attack; did you mean") for line in told)
    assert any(line.startswith("method 'b': training.epochs must be a whole number, got 'x'") for line in told)
    assert any(line.startswith("method 'b', 'c': selection.budget must be a share") for line in told)


@pytest.mark.parametrize("cost", ["5", "free", "[1]", "[[a, b]]", "true"])
def test_a_cost_that_holds_no_settings_is_told_in_a_line(suite, cost):
    with pytest.raises(ConfigError) as error:
        resolve_methods(suite(f"set: {{cost: {cost}}}\nmethods: {{full: {{}}, b: {{}}}}"))
    (line,) = error.value.lines
    assert line.startswith("every method: cost must be a mapping of settings, got ")


def test_the_cost_of_a_suites_methods_is_not_written_into_what_its_run_file_holds(suite):
    cost = suite("set: {cost: {reference_steps: 5}}\nmethods: {full: {}, b: {}}").methods["b"]["cost"]
    assert cost == {"reference_steps": 5, "reference_epochs": 30}


AXES = "{" + ", ".join(f"a.b{i}: [1, 2, 3, 4, 5, 6, 7, 8, 9]" for i in range(300)) + "}"


@pytest.mark.case("G3")
@pytest.mark.parametrize("text", [
    f"methods: {{full: {{}}, big: {{grid: {AXES}}}}}", f"methods: {{full: {{}}}}\ngrid: {AXES}",
    f"grid: {AXES}\nreference: of the grid", "methods: {" + ", ".join(f"m{i}: {{}}" for i in range(1001)) + "}",
], ids=["of a method", "of the suite", "alone", "methods"])  # fmt: skip
def test_a_suite_of_too_many_methods_is_refused_before_they_are_written_out(suite, monkeypatch, text):
    monkeypatch.setattr(suite_file, "_expand_grid", lambda *_: pytest.fail("written out"))
    with pytest.raises(ConfigError) as error:
        suite(text)
    (line,) = error.value.lines
    assert line.startswith("methods must be at most 1,000, each combination of a grid counted, got ")


@pytest.mark.case("G3")
def test_a_suite_of_too_many_runs_is_refused(suite):
    methods = "methods: {full: {}, " + ", ".join(f"m{i}: {{}}" for i in range(9)) + "}"
    assert len(suite(f"seeds: {[*range(1000)]}\n{methods}").seeds) == 1000
    with pytest.raises(ConfigError, match="methods times seeds must be at most 10,000 runs, got 10010"):
        suite(f"seeds: {[*range(1001)]}\n{methods}")


@pytest.mark.case("G3")
def test_each_run_file_and_override_is_read_once_whatever_the_number_of_methods(suite, monkeypatch, root, tmp_path):
    texts = []
    parse = yaml_reader.parse

    def count(text, where):
        texts.append(text)
        return parse(text, where)

    monkeypatch.setattr(yaml_reader, "parse", count)
    monkeypatch.setattr(yaml_reader, "_parse_once", count)  # what was parsed before, in other tests, counts as well
    other = root / "experiments" / ".." / EXPERIMENT
    methods = ", ".join(f"m{i}: {{experiment: {other}}}" for i in range(20))
    suite(f"methods: {{full: {{}}, more: {{}}, {methods}}}", None, ["seed=7"])
    assert len(texts) == 3 and "7" in texts  # the suite, the run file by two names, the override
    texts.clear()
    (tmp_path / "bad.yaml").write_text("a: [1")
    methods = ", ".join(f"m{i}: {{experiment: bad.yaml}}" for i in range(20))
    with pytest.raises(ConfigError) as error:
        suite(f"methods: {{full: {{}}, {methods}}}")
    (line,) = error.value.lines
    assert line.startswith("method 'm0', 'm1', 'm2' and 17 more: ") and "bad.yaml: line 1, column 6" in line
    assert len(texts) == 3


def test_methods_that_share_a_run_file_share_no_value(suite):
    found = suite("set: {attack: {name: linf_pgd, eps: 0.1}}\nmethods: {full: {}, b: {attack.eps: 0.2}, c: {}}").methods
    assert [found[name]["attack"]["eps"] for name in ("full", "b", "c")] == [0.1, 0.2, 0.1]
    found["full"]["attack"]["eps"] = 0.3
    assert found["c"]["attack"]["eps"] == 0.1


@pytest.mark.slow
@pytest.mark.case("G3")
def test_methods_after_the_first_five_thousand_problems_are_not_checked(suite, monkeypatch, tmp_path):
    (tmp_path / "bad.yaml").write_text("".join(f"k{i}: 1\n" for i in range(1500)))
    checked = []
    check = suites.from_dict
    monkeypatch.setattr(suites, "from_dict", lambda raw: checked.append(1) or check(raw))
    methods = ", ".join(f"m{i}: {{experiment: bad.yaml}}" for i in range(50))
    loaded = suite(f"methods: {{full: {{}}, {methods}}}")
    with pytest.raises(ConfigError) as error:
        resolve_methods(loaded)
    assert len(checked) < 8
    assert error.value.lines[-1].endswith("more than 5,000 problems; methods after this are not checked yet")


def test_a_size_is_named_where_there_are_any(suite):
    with pytest.raises(ConfigError, match="--size must be one of small, got None"):
        suite("methods: {full: {}}\nsizes: {small: {}}")
    with pytest.raises(ConfigError, match="--size must be left out, got 'small'"):
        suite("methods: {full: {}}", "small")


def test_a_run_file_is_not_a_suite(root):
    with pytest.raises(ConfigError, match="use advcore run"):
        load(root / EXPERIMENT)


def test_each_run_is_in_exactly_one_shard(suite):
    found = suite("methods: {full: {}, a: {}, b: {}}")
    every = list_runs(found, resolve_methods(found))
    parts = [shard(every, f"{i}/4") for i in (1, 2, 3, 4)]
    assert sorted(one.slug for part in parts for one in part) == sorted(one.slug for one in every)
    assert shard(every, None) == every and shard(every, "1/1") == every
    for wrong in ("0/2", "3/2", "2", "a/b", "1/0", "-1/2"):
        with pytest.raises(ConfigError, match="--shard must be i/n"):
            shard(every, wrong)


def test_baselines_are_left_out_by_name_or_all_together(suite):
    left = {more: list_left_out(suite(f"methods: {{full: {{}}}}\n{more}").added) for more in (
        "", "baselines: true", "baselines: {fat: false, random: true}", "baselines: false")}  # fmt: skip
    assert list(left.values()) == [[], [], ["FAT"], [BASELINES[name] for name in list_added(None)]]
    assert suite("methods: {full: {}}\nreference: null\nbaselines: false").added == ()
    static = suite("methods: {full: {}}\nbaselines: {random_static: true, fat: false}")
    assert "random_static" in static.added and "random" in static.added and list_left_out(static.added) == ["FAT"]
    assert "random_static" not in suite("methods: {full: {}}").added  # which committed suites have no records of


def test_an_identity_knows_settings_from_places(suite):
    text = "methods: {full: {}}\nbaselines: {random: false}"
    plain, elsewhere, other = (
        resolve_methods(suite(text, None, sets))["full"]
        for sets in (
            (),
            ["device=cpu", "checkpoint.period=3", "data.workers=2", "tracking=[{name: mlflow}]"],
            ["training.normalise=none"],
        )
    )
    assert identify(plain) == identify(elsewhere) != identify(other)
    assert hash_settings(identify(plain)) == hash_settings(identify(elsewhere)) != hash_settings(identify(other))


SUITES = (
    "digits-cheap",
    "digits",
    "mnist",
    "minibatch-mnist",
    "minibatch-cifar10",
    "minibatch-factors",
    "minibatch-strong",
)
SUITES += (
    "savings",
    "savings-parts",
    "savings-long",
    "savings-strong",
    "main-cifar10",
    "main-repeat",
    "main-strong",
    "main-mnist",
    "main-mnist-strong",
)


@pytest.mark.parametrize("name", SUITES)
def test_every_committed_record_is_its_suites(root, name):
    """What was added since counts with its default; `selection.cost` in place of the budget that was found for it."""
    suite = load(root / f"benchmarks/suites/{name}.yaml")
    known = {f"{run.slug}.json": run for run in list_runs(suite, resolve_methods(suite))}
    kept = sorted((root / "benchmarks/records" / name).glob("*.json"))
    assert kept
    for path in kept:
        assert not list_differences(RunRecord.load(path), known[path.name].config), path


def test_a_record_of_other_settings_is_not_the_suites(root):
    suite = load(root / "benchmarks/suites/digits.yaml")
    run = list_runs(suite, resolve_methods(suite))[0]
    raw = asdict(RunRecord.load(root / "benchmarks/records/digits/full-s0.json"))
    assert identify_record(RunRecord(**raw)) == identify(run.config)
    raw["config"]["training"]["epochs"] = 29
    assert "training.epochs: 29 -> 30" in list_differences(RunRecord(**raw), run.config)
    raw["config"]["training"]["epochz"] = 29
    assert "does not know" in list_differences(RunRecord(**raw), run.config)[0]


def test_a_size_may_leave_out_baselines_that_the_suite_adds(suite):
    sizes = "sizes: {small: {baselines: {fat: false}}, none: {baselines: false}, full: {}}"
    text = f"methods: {{full: {{selection: null}}}}\n{sizes}\n"
    assert "fat" in suite(text, "full").added and "fat" not in suite(text, "small").added
    assert "random" in suite(text, "small").added and suite(text, "none").added == ()
    with pytest.raises(ConfigError, match="sizes.small.baselines.fatt is none; did you mean 'fat'"):
        suite(text.replace("{fat:", "{fatt:"), "small")


def test_every_suite_of_the_papers_resolves_in_every_size(root):
    paths = sorted((root / "benchmarks/suites/papers").glob("*.yaml"))
    assert len(paths) >= 12
    for path in paths:
        raw = read(path)
        assert {"small", "full"} <= raw["sizes"].keys() and raw["name"] == path.stem
        for size in raw["sizes"]:
            suite = load(path, size)
            assert list(resolve_methods(suite)) == list(expand_grids(raw)) and "random" in suite.added
            assert suite.added == list_added(None) or size == "small"


def test_the_suite_in_the_page_is_one(root, tmp_path):
    text = re.search(r"```yaml\n(.*?)```", (root / "docs/bench.md").read_text(), re.S)[1]
    (tmp_path / "experiments").symlink_to(root / "experiments")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/mine.yaml").write_text(text)
    found = resolve_methods(load(tmp_path / "suites/mine.yaml"))
    assert list(found) == ["full", "GradMatch", "CRAIG", "GradMatch 0.1", "GradMatch 0.3"]
