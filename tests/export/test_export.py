"""advcore export: what is written, what is refused, and that it loads where there is no advcore."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from examples import build_example
from pyarrow import parquet
from safetensors.torch import load_file

from advcore import Coreset, cli
from advcore.config.load import from_dict
from advcore.config.schema import WITH_ARCHITECTURE
from advcore.errors import ConfigError
from advcore.export import loader_template as standalone
from advcore.export.export import build_network, export, strip_folders
from advcore.export.robustbench import prepare_submission
from advcore.files import load_tensors, read_sealed, save_tensors
from advcore.models import MODELS
from advcore.reporting.record import RunRecord
from advcore.run.weights import load_state

OUTSIDE = """
import importlib.util, json, sys
sys.modules["advcore"] = None  # an import of it would fail
found = {}
for folder in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("model", folder + "/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found[folder] = module.check()
assert not [name for name in sys.modules if name.startswith("advcore.")]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def run(root, tiny, tmp_path_factory):
    """A run of a small network with two coresets."""
    out = tmp_path_factory.mktemp("runs") / "small"
    changes = [
        *tiny,
        "selection.period=1",
        "selection.warm_start=0.5",
        "data.validation=0.2",
        "evaluation.checks=false",
    ]
    settings = [part for change in changes for part in ("--set", change)]
    with pytest.MonkeyPatch.context() as patch:
        given = ["advcore", "run", str(root / "experiments/trades_gradmatch.yaml"), *settings, "--out", str(out)]
        patch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert leaving.value.code == 0
    return out


def with_model(run, to, model: dict, *, data: dict | None = None, shape=(1, 8, 8)):
    """A run's folder as if another network had been trained in it: its weights and statistics are random.

    data : settings of the data that it seems trained on, of this shape and ten classes.
    """
    record = RunRecord.load(run / "record.json")
    record.config["model"] = model
    record.config["data"], record.data["shape"] = data or record.config["data"], list(shape)
    record.save(to / "record.json")
    net = build_network(from_dict(record.config), 10, shape)
    generator = torch.Generator().manual_seed(0)
    state = {name: _moved(value, generator) for name, value in net.state_dict().items()}
    for which, epoch in (("last", record.epochs[-1]["epoch"]), ("best", record.best_epoch)):
        save_tensors(to / "checkpoints" / f"{which}.safetensors", state, {"epoch": epoch, "version": "0"})
    return to


def _moved(value, generator):
    """Statistics other than those of a new network, weights as large as they were."""
    if not value.is_floating_point():
        return value + 7
    noise = 0.1 * torch.rand(value.shape, generator=generator)
    return value * (1 + noise) if value.ndim == 2 or value.ndim == 4 and value.shape[2] > 1 else value + noise / 10


def outside(*folders) -> list[dict[str, float]]:
    """What `check` of each export finds in a process that cannot import advcore."""
    command = [sys.executable, "-c", OUTSIDE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout).values())


def loaded(folder):
    """The export's own `load`."""
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def same_elsewhere(found: dict[str, float], folder) -> None:
    """Equal logits, and the accuracy that they say, on noise and on the samples."""
    held = load_file(folder / "check-samples.safetensors")
    right = float((held["logits"].argmax(1) == held["y"]).float().mean())
    assert found["check-noise: difference"] <= 1e-6 and found["check-samples: difference"] <= 1e-6
    assert found["check-samples: accuracy"] == right


@pytest.mark.slow
def test_torchvisions_resnet_is_the_same_where_there_is_no_advcore(run, tmp_path):
    model = {"name": "resnet18", "normalize": "data", "head": None, "stem": "cifar"}
    folder = export(with_model(run, tmp_path / "run", model), tmp_path / "out", samples=20).folder
    (found,) = outside(folder)
    same_elsewhere(found, folder)


@pytest.mark.slow
def test_every_architecture_is_the_same_where_there_is_no_advcore(run, tmp_path):
    """ImageNet's stem and raw pixels too. Those of torchvision are what issue 9 asks for."""
    pytest.importorskip("timm", reason="needs the package timm: install the extra hf")
    more = [
        {"name": "resnet50", "normalize": "none", "head": None, "stem": "imagenet"},
        {"name": "timm:resnet10t", "normalize": "data", "head": None, "options": {"drop_path_rate": 0.1}},
        {"name": "torchvision:mobilenet_v3_small", "options": {"width_mult": 0.25}},
    ]
    usual = [{"name": name, "normalize": "data", "head": None} for name in MODELS if name not in WITH_ARCHITECTURE]
    folders = []
    for i, model in enumerate([*usual, *more]):
        made = with_model(run, tmp_path / f"run{i}", model)
        folders.append(export(made, tmp_path / f"out{i}", samples=20).folder)
    for found, folder in zip(outside(*folders), folders, strict=True):
        same_elsewhere(found, folder)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_says_what_it_is_made_of(name):
    """The text compiles, and names nothing that is not in it or imported by it."""
    settings = build_example(MODELS[name])
    text = standalone.write_source(settings, title="x", num_classes=10, shape=(3, 32, 32))
    assert text and "advcore" not in re.sub(r'^""".*?"""', "", text, flags=re.S)
    names: dict = {"__name__": "model", "__file__": "model.py"}
    exec(compile(text, "model.py", "exec"), names)
    config = {"shape": [3, 32, 32], "network": {"normalize": True}}
    config["network"]["arguments"] = json.loads(json.dumps(settings.list_arguments(10, (3, 32, 32))))
    with torch.device("meta"):
        made, own = names["build"](config), settings.build(10, (3, 32, 32))
    shapes = {name.removeprefix("1."): value.shape for name, value in made.state_dict().items()}
    assert own.state_dict().keys() == shapes.keys() - {"0.mean", "0.std"}
    assert all(value.shape == shapes[name] for name, value in own.state_dict().items())


def test_an_export_holds_what_others_read_and_nobodys_data_unasked(advcore, run, tmp_path):
    out = tmp_path / "out"
    code, told, err = advcore("export", run, "--out", out, "--parquet")
    assert code == 0, err
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    coresets = {f"coresets/epoch-{i:03d}.{kind}" for i in (1, 2) for kind in ("npz", "json", "parquet")}
    assert names == coresets | {
        "README.md", "config.json", "model.py", "model.safetensors", "check-noise.safetensors", "coresets/index.json",
    }  # fmt: skip
    for path in out.glob("coresets/*.npz"):
        assert np.load(path, allow_pickle=False)["indices"].ndim == 1
    config, record = json.loads((out / "config.json").read_text()), RunRecord.load(run / "record.json")
    assert config["accuracies"] == record.final["best"] and config["checkpoint"]["epoch"] == record.best_epoch
    state, facts = load_tensors(run / "checkpoints/best.safetensors")
    assert config["checkpoint"]["sha256"] == facts["sha256"]
    written = load_file(out / "model.safetensors")
    assert state.keys() == written.keys() and all(torch.equal(state[name], written[name]) for name in state)
    model = loaded(out)
    noise = load_file(out / "check-noise.safetensors")
    assert not model.training and torch.equal(model(noise["x"]), noise["logits"])
    assert from_dict(config["run"]).training.epochs == 4
    assert str(run) not in "".join(path.read_text() for path in out.rglob("*.json"))


def test_coresets_come_out_as_they_went_in(run, tmp_path):
    out = export(run, tmp_path / "out", kind="coresets", parquet=True).folder
    index = json.loads((out / "coresets/index.json").read_text())
    assert [one["epoch"] for one in index["coresets"]] == [1, 2] and not (out / "model.py").exists()
    for one in index["coresets"]:
        before, after = (Coreset.load(folder / "coresets" / one["file"]) for folder in (run, out))
        assert torch.equal(before.indices, after.indices) and torch.equal(before.weights, after.weights)
        assert before.fingerprint == after.fingerprint == index["data"]["fingerprint"]
        table = parquet.read_table((out / "coresets" / one["file"]).with_suffix(".parquet"))
        assert np.array_equal(table["index"], before.indices) and np.array_equal(table["weight"], before.weights)
        assert table.schema.metadata[b"fingerprint"].decode() == before.fingerprint


def test_a_run_on_its_way_is_exported_and_said_to_be_that(advcore, run, tmp_path):
    record = RunRecord.load(run / "record.json")
    record.finished, record.final, record.epochs = False, {}, record.epochs[:2]
    made = with_model(run, tmp_path / "run", record.config["model"])
    record.save(made / "record.json")
    code, told, err = advcore("export", made, "--checkpoint", "last", "--out", tmp_path / "out")
    assert code == 0, err
    assert "not finished" in told and "no coresets" in told
    card = (tmp_path / "out/README.md").read_text()
    assert "**The run is not finished" in card and "model-index" not in card
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["accuracies"] is None and config["finished"] is False


def test_nothing_is_overwritten_unasked_and_nothing_but_an_export_at_all(advcore, run, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    assert advcore("export", run, "--out", out)[0] == 0
    before = (out / "README.md").stat().st_mtime_ns
    code, _, err = advcore("export", run, "--out", out)
    assert code == 2 and "--overwrite" in err and (out / "README.md").stat().st_mtime_ns == before
    assert advcore("export", run, "--out", out, "--overwrite", "--format", "coresets")[0] == 0
    assert not (out / "README.md").exists() and (out / "coresets/index.json").exists()
    assert advcore("export", run, "--out", out, "--overwrite")[0] == 0 and (out / "README.md").exists()
    other.mkdir()
    (other / "thesis.tex").write_text("all of it")
    code, _, err = advcore("export", run, "--out", other, "--overwrite")
    assert code == 2 and "not an export" in err and (other / "thesis.tex").exists()
    assert advcore("export", run, "--out", run, "--overwrite")[0] == 2 and (run / "record.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other"}  # nothing half-made


def test_a_failure_leaves_nothing_behind(run, tmp_path, monkeypatch):
    monkeypatch.setattr(standalone, "write_source", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--checkpoint", "newest"], "--checkpoint"),
        (["--format", "onnx"], "--format"),
        (["--samples", "-1"], "--samples"),
    ],
)
def test_a_wrong_option_is_one_line(advcore, run, tmp_path, given, told):
    code, _, err = advcore("export", run, "--out", tmp_path / "out", *given)
    assert code == 2 and told in err and len(err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_run_without_coresets_has_none_to_export(run, tmp_path, advcore):
    made = with_model(run, tmp_path / "run", RunRecord.load(run / "record.json").config["model"])
    code, _, err = advcore("export", made, "--format", "coresets", "--out", tmp_path / "out")
    assert code == 2 and "selected none" in err
    assert advcore("export", tmp_path / "nowhere", "--out", tmp_path / "out")[0] == 2


def test_a_damaged_checkpoint_or_coreset_is_not_exported(advcore, run, tmp_path):
    made = with_model(run, tmp_path / "run", RunRecord.load(run / "record.json").config["model"])
    weights = made / "checkpoints/best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, _, err = advcore("export", made, "--out", tmp_path / "out")
    assert code == 2 and "damaged" in err and not (tmp_path / "out").exists()


def test_where_files_lay_is_not_told():
    given = {"path": "/home/me/data/cifar10", "uri": "http://host/x", "list": ["a/b", 1, None], "name": "linf_pgd"}
    given["weights"] = "hub:owner/repo"
    assert strip_folders(given) == {
        "path": "cifar10",
        "uri": "http://host/x",
        "list": ["b", 1, None],
        "name": "linf_pgd",
        "weights": "hub:owner/repo",
    }


def test_a_models_folder_has_a_name_by_itself(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(export(run, kind="coresets").folder) == "exports/small-best"
    with pytest.raises(ConfigError, match="new or empty"):
        export(run, kind="coresets")


def test_the_bundle_of_copies_of_cifar10_claims_nothing_and_says_what_to_run(advcore, run, tmp_path):
    """Its loader gives the logits of the run's model."""
    copies = {"name": "parquet", "path": "/home/me/cifar10"}
    made = with_model(run, tmp_path / "run", {"name": "small_cnn", "width": 4}, data=copies, shape=(3, 32, 32))
    code, told, err = advcore("export", made, "--out", tmp_path / "out", "--robustbench")
    assert code == 0, err
    lines = told.splitlines()
    assert [line for line in lines if line.startswith("no claim")] == [
        "no claim: not evaluated on the full test set: 0 of 10,000 images by AutoAttack standard, Linf 8/255",
        "no claim: evaluated on copies of cifar10 (data.name: parquet), not on the files that torchvision reads",
        "no claim: evaluated without the checks that detect a random forward pass (evaluation.checks: false)",
    ]
    file = made / "robustbench.json"
    assert lines[-2] == (
        f"next: advcore evaluate {made} --checkpoint best --out {file} --state {made / 'robustbench.npz'} "
        "--set 'data={name: cifar10, path: data}' "
        "--set 'evaluation.attacks=[{name: autoattack, norm: linf, eps: 8/255}]' --set evaluation.examples=null "
        "--set evaluation.checks=true"
    )
    out = tmp_path / "out"
    assert lines[-1] == (
        f"next: advcore export {made} --checkpoint best --out {out} --overwrite --robustbench --evaluation {file}"
    )
    entry = json.loads((out / "robustbench/model_info/cifar10/Linf/trades_gradmatch.json").read_text())
    assert entry["eps"] == "8/255" and entry["clean_acc"] is entry["autoattack_acc"] is None
    net = build_network(from_dict(RunRecord.load(made / "record.json").config), 10, (3, 32, 32))
    load_state(net, made / "checkpoints/best.safetensors")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(out)(images), net(images))


def test_what_is_claimed_is_printed(advcore, run, tmp_path):
    data = {"name": "cifar10", "path": "data"}
    made = with_model(run, tmp_path / "run", {"name": "small_cnn", "width": 4}, data=data, shape=(3, 32, 32))
    record = RunRecord.load(made / "record.json")
    record.config["evaluation"]["checks"] = True
    facts = {"n": 10_000, "interval": [0.5, 0.9]}
    attack = {"name": "autoattack", "norm": "linf", "eps": 8 / 255, "version": "standard", "parts": [], "after": {}}
    attacks = [attack | facts | {"accuracy": 0.5, "seed": 0, "package": "x 1"}]
    record.final["best"] = {"clean": facts | {"accuracy": 0.8}, "attacks": attacks, "flags": []}
    record.save(made / "record.json")
    code, told, err = advcore("export", made, "--out", tmp_path / "out", "--robustbench")
    assert code == 0 and "claim: clean 80.00 %, AutoAttack 50.00 %\n" in told and "no claim" not in told, err


def test_data_without_a_leaderboard_is_a_line(advcore, run, tmp_path):
    code, _, err = advcore("export", run, "--out", tmp_path / "out", "--robustbench")
    assert code == 2 and "got 'digits Linf'; export without it" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_bundle_is_the_same_where_there_is_no_advcore(run, tmp_path):
    model = {"name": "resnet18", "normalize": "data", "head": None, "stem": "cifar"}
    copies = {"name": "parquet", "path": "cifar10"}
    made = with_model(run, tmp_path / "run", model, data=copies, shape=(3, 32, 32))
    folder = export(made, tmp_path / "out").folder
    prepare_submission(made).write(folder)
    (found,) = outside(folder)
    assert found["check-noise: difference"] <= 1e-6 and (folder / "robustbench/issue.md").exists()


@pytest.mark.slow
def test_exported_weights_are_evaluated_like_those_of_the_run(advcore, run, tmp_path):
    out = tmp_path / "out"
    assert advcore("export", run, "--out", out)[0] == 0
    files = [tmp_path / "exported.json", tmp_path / "of_the_run.json"]
    for which, file in zip((out / "model.safetensors", "best"), files, strict=True):
        assert advcore("evaluate", run, "--checkpoint", which, "--out", file)[0] == 0
    ours, theirs = (read_sealed(file, "advcore-evaluation-1") for file in files)
    assert ours["attacks"] == theirs["attacks"] and ours["config"] == theirs["config"]
    assert theirs["sha256"] == json.loads((run / "checkpoints/best.json").read_text())["sha256"]


@pytest.mark.slow
def test_what_robustbench_asks_of_a_model_holds(run, tmp_path):
    """Its `benchmark`: not training, moved to a device, clean accuracy from `output.max(1)`, AutoAttack on the module
    itself; in a process without advcore."""
    pytest.importorskip("pyautoattack", reason="needs the package pyautoattack: install the extra eval")
    folder = export(run, tmp_path / "out", samples=20).folder
    code = """
import sys
sys.modules["advcore"] = None
import torch
from model import load
from pyautoattack import AutoAttack
from safetensors.torch import load_file
model, held = load(), load_file("check-samples.safetensors")
assert isinstance(model, torch.nn.Module) and not model.training
model = model.to(torch.device("cpu"))
x, y = held["x"], held["y"]
clean = float((model(x).max(1)[1] == y).float().mean())
attack = AutoAttack(model, norm="Linf", eps=0.05, version="custom", attacks=["apgd-ce"], device="cpu")
x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=20)
assert float((x_adv - x).abs().max()) <= 0.05 + 1e-6 and not torch.equal(x_adv, x)
assert float((model(x_adv).max(1)[1] == y).float().mean()) <= clean
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
