"""Own code in run files: what a plug-in registers has a name, its faults are its owner's, and runs remember it."""

import json
import sys

import pytest
import torch
from plug_ins import NET, RUN, forget_plugins
from torch import nn

from advcore import register
from advcore.attacks.base import Attack
from advcore.attacks.pgd import LinfPGD
from advcore.config.load import from_dict, resolve
from advcore.config.schema import TABLES
from advcore.errors import ConfigError
from advcore.objectives.standard import Pgd
from advcore.register import plugins
from advcore.reporting.record import RunRecord
from advcore.run.prepare import prepare
from advcore.settings import settings


@pytest.fixture(autouse=True)
def tables():
    """The tables, and what is loaded, as they were before the test."""
    with forget_plugins():
        yield


NAMELESS = """
from functools import partial
import advcore.register
from torch import nn

def build(num_classes, width):
    return nn.Linear(width, num_classes)

def make():
    class Local(nn.Module):
        def __init__(self, num_classes): ...
    return Local

advcore.register.model("a_partial")(partial(build, width=3))
advcore.register.model("a_lambda")(lambda num_classes: build(num_classes, 3))
advcore.register.model("a_local")(make())
"""


@pytest.fixture
def my_net(tmp_path):
    path = tmp_path / "my_net.py"
    path.write_text(NET)
    return path


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(RUN))
    return path


def start_again():
    """As a new process begins: nothing is loaded."""
    plugins.LOADED.clear()
    TABLES["models"].pop("my_net", None)
    TABLES["models"].pop("plugin", None)


def test_a_registered_network_has_its_parameters_as_settings(my_net):
    plugins.load_plugins([my_net])
    config = from_dict(RUN | {"model": {"name": "my_net", "width": 3}})
    assert {"name": "my_net", "normalize": "data", "head": None, "width": 3}.items() <= resolve(config)["model"].items()
    network = config.model.build(5, (1, 8, 8))
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 5) and network.body[0].out_channels == 3
    with pytest.raises(ConfigError, match="model.widht is not a setting of model; did you mean 'width'"):
        from_dict(RUN | {"model": {"name": "my_net", "widht": 3}})
    with pytest.raises(ConfigError, match="model.width must be a whole number, got 'wide'"):
        from_dict(RUN | {"model": {"name": "my_net", "width": "wide"}})


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("z, z", r"^the model's output must be logits \(B, C\), got 'tuple of Tensor, Tensor'"),
        ("0.25 * z", "^model.head must be a last torch.nn.Linear .* got 0.25 times the output of "),
        ("z[:, :1]", "^model.head must be a last torch.nn.Linear .* got none with as many outputs as there are logits"),
    ],
)
def test_what_a_registered_network_returns_is_looked_at_before_it_trains(my_net, output, line):
    last = "return self.classify(self.body(x))"
    assert last in NET
    my_net.write_text(NET.replace(last, f"z = self.classify(self.body(x)); return {output}"))
    plugins.load_plugins([my_net])
    with pytest.raises(ConfigError, match=line):
        prepare(from_dict(RUN))


def test_a_network_that_is_not_registered_is_found_by_its_name_in_the_plug_in_alone(my_net):
    plugins.load_plugins([my_net])
    config = from_dict(RUN | {"model": {"name": "plugin:Net", "options": {"width": 2}}})
    assert config.model.build(3, (1, 8, 8)).body[0].out_channels == 2
    assert resolve(config)["model"]["name"] == "plugin:Net"
    for name, hint in (("Ned", "did you mean 'Net'"), ("nn", r"\(Net\)"), ("os.system", r"\(Net\)")):
        wrong = from_dict(RUN | {"model": {"name": f"plugin:{name}"}})
        with pytest.raises(ConfigError, match=f"model.name must be plugin:NAME with .*{hint}"):
            wrong.model.build(3, (1, 8, 8))


def test_without_the_plug_in_the_name_is_unknown_and_nothing_is_imported(my_net, monkeypatch):
    monkeypatch.chdir(my_net.parent)
    before = set(sys.modules)
    for name in ("my_net", "my_net.py", "my_net:Net", "my_net.Net", str(my_net), "plugin:Net"):
        with pytest.raises(ConfigError, match="model.name must be one of small_cnn, "):
            from_dict(RUN | {"model": {"name": name}})
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["linf_mine", "my.attack"])
def test_each_kind_of_method_gets_its_name(name):
    @register.attack(name)
    @settings
    class Mine(LinfPGD):
        """A PGD of my own."""

    @register.objective("mine")
    @settings
    class MyLoss(Pgd):
        """A loss of my own."""

    register.transform("mirror")(lambda x, generator: x.flip(-1))
    config = from_dict(
        RUN
        | {"attack": {"name": name, "eps": 0.1}, "objective": {"name": "mine"}}
        | {"data": {"name": "digits", "augment": "mirror"}, "model": {"name": "small_cnn"}}
        | {"evaluation": {"attacks": [{"name": name, "eps": 0.2}]}}
    )
    assert isinstance(config.attack, Mine) and isinstance(config.objective, MyLoss)
    assert isinstance(config.evaluation.attacks[0], Mine) and resolve(config)["attack"]["name"] == name


class NoClasses(nn.Module):
    def __init__(self, width):
        super().__init__()


def test_what_no_run_file_could_use_is_refused_when_it_is_registered():
    for kind, name, entry, line in (
        (register.model, "resnet18", NoClasses, "register.model must be given a name that is free, got 'resnet18'"),
        (register.model, "a:b", NoClasses, "register.model must be given a name of letters"),
        (register.model, "x", NoClasses, r"register.model\('x'\) must be given a network that takes num_classes"),
        (register.model, "x", nn.Linear(2, 2), "must be given a network that takes num_classes"),
        (register.model, "x", 3, "must be given a class or function that builds a network, got 3"),
        (register.attack, "x", LinfPGD(eps=0.1), "must be given a class made with @advcore.settings.settings"),
        (register.attack, "x", Pgd, "must be given a subclass of Attack"),
        (register.objective, "x", LinfPGD, "must be given a class with loss, passes, bind_ascent, got 'LinfPGD with"),
        (register.solver, "x", Attack, r"register.solver\('x'\) must be given a class"),
        (register.transform, "crop", abs, "a name that is free, got 'crop'; taken: none, crop, crop_flip"),
    ):
        with pytest.raises(ConfigError, match=line) as caught:
            kind(name)(entry)
        assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("x = 1 / 0", ("x = 1 / 0", "ZeroDivisionError", "its traceback is printed above")),
        ("def f(:", ("SyntaxError", "its traceback is printed above")),
        ("import sys\nsys.exit(0)", ("SystemExit", "its traceback is printed above")),
        ("import not_there", ("ModuleNotFoundError", "its traceback is printed above")),
        ("import advcore.register as r\nr.model('resnet18')(int)", ("bad.py: register.model must be given a name",)),
    ],
)
def test_a_plug_in_that_fails_shows_its_own_traceback_and_ends_with_2(advcore, tmp_path, run_file, code, shown):
    (tmp_path / "bad.py").write_text(code)
    status, out, err = advcore("check", run_file, "--plugin", tmp_path / "bad.py")
    assert status == 2 and not out and all(text in err for text in shown), err
    assert "plugins.py" not in err and err.splitlines()[-1].startswith("advcore: ")


def test_a_network_that_fails_shows_the_traceback_of_its_own_code(advcore, my_net, run_file):
    my_net.write_text(NET.replace("self.classify(self.body(x))", "self.classify(self.nothing(x))"))
    status, _, err = advcore("check", run_file, "--plugin", my_net)
    assert status == 2 and "self.nothing(x)" in err and "advcore: a plug-in raised AttributeError" in err
    assert "/advcore/" not in err


@pytest.mark.parametrize("name", ["missing.py", "my_net.txt", "."])
def test_a_plug_in_that_is_no_python_file_is_one_line(advcore, tmp_path, run_file, name):
    (tmp_path / "my_net.txt").write_text(NET)
    status, _, err = advcore("check", run_file, "--plugin", tmp_path / name)
    assert status == 2 and "--plugin must be an existing Python file (.py)" in err and err.count("\n") == 1


def test_a_run_remembers_its_plug_in_and_goes_on_with_the_same_alone(advcore, tmp_path, my_net, run_file):
    folder = tmp_path / "run"
    options = ("--plugin", my_net, "--out", folder)
    assert advcore("run", run_file, *options)[0] == 0
    (entry,) = RunRecord.load(folder / "record.json").plugins
    assert entry["path"] == str(my_net) and entry["names"] == ["models: my_net"] and len(entry["sha256"]) == 64
    start_again()
    status, _, err = advcore("evaluate", folder)
    assert status == 2 and "--plugin must be my_net.py, which the run was started with, got None" in err
    start_again()
    my_net.write_text(NET + "# another content\n")
    status, _, err = advcore("run", run_file, *options, "--set", "training.epochs=2", "--resume")
    assert status == 2 and "--plugin must be my_net.py with the content that the run was started with" in err
    start_again()
    my_net.write_text(NET)
    assert advcore("run", run_file, *options, "--set", "training.epochs=2", "--resume")[0] == 0


def test_plug_ins_whose_files_have_the_same_name_are_told_apart_by_content(my_net, tmp_path):
    other = tmp_path / "other" / my_net.name
    other.parent.mkdir()
    other.write_text("import torch\n")
    plugins.load_plugins([my_net, other])
    plugins.check_plugins([plugin.describe() for plugin in plugins.LOADED], same_content=True)


def test_a_network_without_a_name_in_its_file_has_no_loader(tmp_path):
    path = tmp_path / "nameless.py"
    path.write_text(NAMELESS)
    plugins.load_plugins([path])
    for name in ("a_partial", "a_lambda", "a_local"):
        assert plugins.find_source(TABLES["models"].pop(name)()) is None


def test_an_exported_network_asks_for_the_file_that_defines_it(advcore, tmp_path, my_net, run_file, monkeypatch):
    folder, out = tmp_path / "run", tmp_path / "export"
    assert advcore("run", run_file, "--plugin", my_net, "--out", folder)[0] == 0
    status, text, err = advcore("export", folder, "--plugin", my_net, "--out", out)
    assert status == 0 and "my_net.py is not exported" in text, err
    loader = {"__file__": str(out / "model.py"), "__name__": "model"}
    assert (
        "needs torch and safetensors, my_net.py with what it imports, and nothing else"
        in (out / "model.py").read_text()
    )
    assert not (out / "my_net.py").exists()
    code = compile((out / "model.py").read_text(), "model.py", "exec")
    exec(code, loader)
    with pytest.raises(FileNotFoundError, match="my_net.py defines the network: put it there"):
        loader["load"]()
    (out / "my_net.py").write_text(NET.replace("import advcore.register", "").replace("advcore.register.model", "print"
                                   ).replace('print("my_net")(Net)', ""))  # fmt: skip
    assert loader["check"]()["check-noise: difference"] < 1e-5


def test_a_suite_hands_its_plug_ins_to_the_runs(my_net):
    plugins.load_plugins([my_net, my_net])
    assert plugins.list_files() == [str(my_net)]


class Point:
    """An entry point of an installed package."""

    name, value, module = "mine", "advcore_plugin_package", "advcore_plugin_package"

    def __init__(self, action):
        self.load = action


def test_an_installed_package_registers_too(monkeypatch, tmp_path):
    path = tmp_path / "advcore_plugin_package.py"
    path.write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    point = Point(lambda: __import__("advcore_plugin_package"))
    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: [point])
    plugins.load_plugins()
    assert "my_net" in TABLES["models"] and plugins.list_files() == []
    assert prepare(from_dict(RUN)).model is not None
    plugins.LOADED.clear()
    del sys.modules["advcore_plugin_package"], TABLES["models"]["my_net"]
    path.write_text("raise KeyError('broken')")
    with pytest.raises(plugins.PluginError, match="the installed plug-in mine .* raised KeyError: 'broken'"):
        plugins.load_plugins()
