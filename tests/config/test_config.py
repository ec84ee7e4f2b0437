"""YAML to config: our own number grammar, every problem at once, by dotted path."""

import pytest
from plug_ins import forget_plugins

from advcore.attacks import LinfPGD
from advcore.config.load import from_dict, load, override, resolve, set_values
from advcore.config.schema import TABLES
from advcore.config.yaml_reader import parse
from advcore.errors import ConfigError

RUN = {
    "name": "x",
    "data": {"name": "digits"},
    "model": {"name": "small_cnn"},
    "objective": {"name": "trades"},
    "attack": {"name": "linf_pgd", "eps": 0.1},
    "selection": {"solver": {"name": "gradmatch"}},
    "training": {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.05}},
    "evaluation": {"attacks": [{"name": "linf_pgd", "eps": 0.1}]},
}


def problems(*sets: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        from_dict(override(RUN, list(sets)))
    return error.value.lines


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("8/255", 8 / 255), ("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("010", 10), ("-3", -3), ("+2", 2),
     ("1E2", 100.0), ("1.5/3", 0.5), ("true", True), ("null", None), ("~", None), ("no", "no"), ("yes", "yes"),
     ("0x10", "0x10"), ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("'8/255'", "8/255"),
     (".inf", ".inf"), ("8/", "8/"), ("1٣", "1٣"), ("１", "１"), ("3 of " + "9" * 500, "3 of " + "9" * 500),
     ("|\n  3", "3"), ("'~'", "~"), ("&b", None), ('"<<"', "<<"), (">-\n  true", "true")],
)  # fmt: skip
@pytest.mark.case("G3")
def test_scalars(text, value):
    found = parse(f"a: {text}", "f")["a"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "part"),
    [("a: 1\na: 2", "'a'"), ("b: {a: 1, a: 2}", "'a'"), ("a:\n\t- 1", "tab"), ("a: [1", "line 1"), ("a: 1/0", "zero"),
     ("a: !!python/object/apply:os.system [ls]", "python/object"), ("a: *b", "b"), ("? [1]\n: 2", "line 1"),
     ("a: !!bool foo", "foo"), ("a: !!timestamp x", "cannot"), ("a: !number [1]", "cannot")],
)  # fmt: skip
@pytest.mark.case("G3")
def test_yaml_that_cannot_be_meant_is_one_line_that_says_where(text, part):
    with pytest.raises(ConfigError) as error:
        parse(text, "file.yaml")
    assert str(error.value).startswith("file.yaml: ") and part in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "part"), [("", "nothing"), ("- 1", "list"), ("3", "int")])
@pytest.mark.case("G3")
def test_the_root_must_be_a_mapping(tmp_path, text, part):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(ConfigError, match=part):
        load(tmp_path / "f.yaml")


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("attack.epss=1", "attack.epss is not a setting of attack; did you mean 'eps'?"),
        ("sed=3", "sed is not a setting of the run file; did you mean 'seed'?"),
        (
            "selection.solver.rigde=1",
            "selection.solver.rigde is not a setting of selection.solver; did you mean 'ridge'?",
        ),
        (
            "training.optimizer.lrr=1",
            "training.optimizer.lrr is not a setting of training.optimizer; did you mean 'lr'?",
        ),
        (
            "evaluation.attacks.0.stps=1",
            "evaluation.attacks.0.stps is not a setting of evaluation.attacks.0; did you mean 'steps'?",
        ),
        ("model.width=1.5", "model.width must be a whole number, got 1.5"),
        ("training.optimizer.lr=true", "training.optimizer.lr must be a number, got True"),
        ("attack.eps='0.1'", "attack.eps must be a number, got '0.1'"),
        ("name=../x", "name must be letters, digits, '.', '-' and '_', got '../x'"),
        ("minibatch={}", "minibatch must be a mapping with a name, got {}"),
        ("minibatch={name: margin, rho: 0}", "minibatch.rho must be a share in (0, 1], got 0.0"),
        ("minibatch={name: loss_ranked, p_up: 1.5}", "minibatch.p_up must be a share in (0, 1], got 1.5"),
        (
            "minibatch={name: margin, draw: top, correction: inverse_probability}",
            "minibatch.correction must be none with draw: top, got 'inverse_probability'; "
            "top picks the largest without drawing",
        ),
        ("selection=3", "selection must be a mapping of settings, got 3"),
        ("attack=linf_pgd", "attack must be a mapping with a name, got 'linf_pgd'"),
        ("attack=null", "attack must be set for an objective that is attacked, got None"),
        (
            "selection.target=validatoin",
            "selection.target must be one of train, validation, real, got 'validatoin'; did you mean 'validation'?",
        ),
        ("selection.memory_limit=0", "selection.memory_limit must be a number above 0, got 0.0"),
        ("selection.memory_limit=-2", "selection.memory_limit must be a number above 0, got -2.0"),
        ("selection.memory_limit='2'", "selection.memory_limit must be a number, got '2'"),
    ],
)
@pytest.mark.case("G1", "G2")
def test_one_problem_is_one_line(setting, line):
    assert problems(setting) == (line,)


@pytest.mark.case("G3")
def test_eps_in_grey_levels_is_explained():
    (line,) = problems("attack.eps=8")
    assert line.startswith("attack.eps must be") and "got 8" in line and "8/255" in line


@pytest.mark.parametrize("path", ["data", "model", "objective", "attack", "selection.solver", "training.optimizer"])
@pytest.mark.case("D3")
def test_an_unknown_name_lists_the_known_ones_and_imports_nothing(path):
    (line,) = problems(f"{path}.name=os.system")
    assert line.startswith(f"{path}.name must be one of ") and "'os.system'" in line


@pytest.mark.case("G3")
def test_all_problems_come_at_once():
    found = problems("attack.epss=1", "selection.budget=1.5", "selection.partition=x", "sed=1", "training.epochs=0")
    assert len(found) == 5


def test_missing_settings_are_named():
    with pytest.raises(ConfigError) as error:
        from_dict({})
    assert {"name", "data", "model", "training"} <= {line.split()[0] for line in error.value.lines}


def test_overrides_reach_into_lists_and_make_sections():
    config = from_dict(override(RUN, ["evaluation.attacks.0.eps=8/255", "cost.reference_steps=7", "selection=null"]))
    assert config.evaluation.attacks == [LinfPGD(eps=8 / 255)]
    assert config.cost.reference_steps == 7 and config.selection is None


@pytest.mark.parametrize("bad", ["a", "=3", "a..b=1", "name.x=1", "evaluation.attacks.5.eps=1"])
def test_overrides_that_cannot_be_meant_are_refused(bad):
    with pytest.raises(ConfigError):
        override(RUN, [bad])


def test_what_is_changed_at_an_alias_is_changed_there_alone():
    text = "attack: &a {name: linf_pgd, eps: 0.1}\nevaluation: {attacks: [*a, {<<: *a, steps: 3}]}\nlist: [*a, *a]"
    raw = parse(text, "f")
    for found in (override(raw, ["attack.eps=0.2", "list.0.eps=0.3"]), set_values(raw, {"attack.eps": 0.2})):
        assert found["attack"]["eps"] == 0.2
        assert [attack["eps"] for attack in found["evaluation"]["attacks"]] == [0.1, 0.1]
        assert found["list"][1]["eps"] == 0.1
    raw["attack"]["eps"] = 0.4
    assert raw["evaluation"]["attacks"][0]["eps"] == raw["list"][0]["eps"] == 0.1


def test_a_value_that_is_set_at_two_places_is_two_values():
    value = {"eps": 0.1}
    found = set_values(set_values({}, {"a": value, "b": value}), {"a.eps": 0.2})
    assert found == {"a": {"eps": 0.2}, "b": {"eps": 0.1}} and value == {"eps": 0.1}


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (["a." * 500 + "b=1", "seed=1"], "a path must have at most 30 parts, got 501"),
        (["seed=1"] * 20_000, "all --set together must have at most 100,000 characters, got 120,000"),
        (["evaluation=[" + "1, " * 3_000 + "1]", "evaluation.0.eps=1"], "holds 1, which has no settings"),
        (["name=[" + "1, " * 3_000 + "1]", "seed=" + "x" * 90_000, "seed.a=1"], "seed holds 'xxx"),
        (["name.a=" + "x" * 90_000], "name holds 'x', which has no settings"),
        (["a" * 90_000 + "=["], "line 1, column 2: "),
    ],
    ids=["deep path", "many", "a setting of a number", "a setting of a long text", "long value", "long path"],
)
@pytest.mark.case("G3")
def test_overrides_that_would_cost_much_are_refused_in_a_line(sets, line):
    (problem,) = problems(*sets)
    assert line in problem and problem.startswith(("--set", "all --set")) and len(problem) < 2_000


def test_the_resolved_config_reads_back_as_itself():
    config = from_dict(override(RUN, ["model.name=timm:resnet18"]) | {"model": {"name": "timm:resnet18"}})
    assert from_dict(resolve(config)) == config
    assert resolve(config)["model"]["name"] == "timm:resnet18"


def test_the_target_and_the_memory_limit_reach_the_selector():
    from advcore.run.build import build_selector

    assert (build_selector(from_dict(RUN)).target, build_selector(from_dict(RUN)).memory_limit) == ("train", None)
    for text, limit in (("2", 2.0), ("1e-3", 1e-3), ("1/4", 0.25), ("null", None)):
        raw = override(RUN, ["selection.target=validation", f"selection.memory_limit={text}"])
        chosen = build_selector(from_dict(raw))
        assert (chosen.target, chosen.memory_limit) == ("validation", limit)


@pytest.mark.parametrize("solver", ["craig", "random", "easycore"])
def test_a_solver_that_fits_no_target_is_refused_with_one_line(solver):
    from advcore.run.build import build_selector

    config = from_dict(override(RUN, [f"selection.solver={{name: {solver}}}", "selection.target=validation"]))
    with pytest.raises(ConfigError) as error:
        build_selector(config)
    (line,) = error.value.lines
    assert line.startswith("selection.target must be 'train'") and "'validation'" in line and "gradmatch" in line


def test_every_experiment_reads_and_builds_its_trainer(root):
    from advcore.register.plugins import load_plugins
    from advcore.run.build import build_trainer

    files = sorted(root.glob("experiments/**/*.yaml"))
    assert len(files) >= 20
    with forget_plugins():
        load_plugins([root / "experiments/own_net.py"])
        for file in files:
            config = load(file)
            build_trainer(config)
            assert from_dict(resolve(config)) == config, file
            assert config.name == str(file.relative_to(root / "experiments")).removesuffix(".yaml").replace("/", "_"), (
                file
            )
            assert file.read_text().startswith("# ")


def test_every_named_class_refuses_unknown_keys_and_documents_its_settings():
    import dataclasses

    for table in TABLES.values():
        for name, cls in table.items():
            assert cls.__pydantic_config__["extra"] == "forbid", name
            for field in dataclasses.fields(cls):
                documented = any(f"{field.name} :" in (base.__doc__ or "") or f"{field.name}, " in (base.__doc__ or "")
                                 or f", {field.name} :" in (base.__doc__ or "") for base in cls.__mro__)  # fmt: skip
                assert documented, f"{name}.{field.name}"
