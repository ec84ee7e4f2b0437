"""Runs that begin from trained weights: those of the file, with the head's or without, and told before training."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from advcore.config.load import from_dict
from advcore.errors import CheckpointError, ConfigError
from advcore.models import MODELS
from advcore.reporting.costs import count_flops, count_passes
from advcore.reporting.record import RunRecord
from advcore.run.prepare import prepare
from advcore.run.run import run

RUN = {
    "name": "tuned",
    "data": {"name": "digits", "train_size": 60, "test_size": 20},
    "model": {"name": "small_cnn", "width": 4},
    "objective": {"name": "pgd"},
    "attack": {"name": "linf_pgd", "eps": 0.1, "steps": 1},
    "training": {"epochs": 1, "batch_size": 30, "optimizer": {"name": "sgd", "lr": 0.05}},
    "evaluation": {"attacks": [{"name": "linf_pgd", "eps": 0.1, "steps": 1}], "checks": False},
}


def configure(path, **model):
    return from_dict(RUN | {"model": RUN["model"] | {"weights": str(path)} | model})


def build_network(num_classes=10, **settings):
    torch.manual_seed(5)
    return MODELS["small_cnn"](**{"width": 4, **settings}).build(num_classes, (1, 8, 8))


def save(network, path, prefix="", save=torch.save):
    save({f"{prefix}{name}": value for name, value in network.state_dict().items()}, path)
    return path


def read_network(prepared):
    return prepared.model[1].state_dict()


def equal(a, b, names=None):
    return all(torch.equal(a[name], b[name]) for name in names or a)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_run_begins_from_the_weights_of_the_file(tmp_path, prefix):
    trained = build_network()
    prepared = prepare(configure(save(trained, tmp_path / "net.pt", prefix)))
    assert equal(trained.state_dict(), read_network(prepared))
    assert prepared.plan.notes["weights"].startswith(f"starts from the weights in {tmp_path}/net.pt")
    assert len(prepared.inputs["model.weights"]) == 64
    assert not equal(trained.state_dict(), read_network(prepare(from_dict(RUN))))


def test_a_new_head_is_random_and_all_else_is_the_files(tmp_path):
    trained = build_network(num_classes=3)
    path = save(trained, tmp_path / "net.pt")
    prepared = prepare(configure(path, new_head=True))
    names = [name for name in trained.state_dict() if not name.startswith("13.")]
    assert names and equal(trained.state_dict(), read_network(prepared), names)
    alone = read_network(prepare(from_dict(RUN)))
    heads = [name for name in alone if name.startswith("13.")]
    assert equal(alone, read_network(prepared), heads), "as random as that of a run from random weights"
    assert "with a random head" in prepared.plan.notes["weights"]


def test_of_another_number_of_classes_the_way_out_is_told(tmp_path):
    path = save(build_network(num_classes=3), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"model.weights: .*2 keys differ.*model.new_head: true") as caught:
        prepare(configure(path))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(("new_head", "width"), [(False, 8), (True, 8)])
def test_weights_of_another_network_are_refused_with_the_keys(tmp_path, new_head, width):
    path = save(build_network(width=width), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="model.weights: .*is a checkpoint of another model") as caught:
        prepare(configure(path, new_head=new_head))
    assert len(caught.value.lines) == 1 and "new_head: true starts" not in str(caught.value)


def test_a_file_that_is_none_is_one_line(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"junk")
    for name in ("net.pt", "missing.safetensors"):
        with pytest.raises(CheckpointError, match="model.weights: ") as caught:
            prepare(configure(tmp_path / name))
        assert len(caught.value.lines) == 1


def test_given_numbers_normalise_in_place_of_the_datas_own(tmp_path):
    prepared = prepare(from_dict(RUN | {"model": RUN["model"] | {"mean": [0.25], "std": [0.5]}}))
    assert float(prepared.model[0].mean) == 0.25 and float(prepared.model[0].std) == 0.5
    for changes, line in (
        ({"mean": [0.2]}, "model.mean, std must be both given or both null"),
        ({"mean": [0.2], "std": [0.0]}, r"model.std must be numbers in .0, 1.; divide|numbers in .0, 1.,"),
        ({"mean": [0.2, 0.2], "std": [0.5, 0.5]}, "model.mean must be one number, or one for each of 1 channels"),
        ({"mean": [0.2], "std": [0.5], "normalize": "none"}, "model.mean, normalize must be null, none"),
        ({"new_head": True}, "model.new_head, weights must be both given or neither"),
    ):
        with pytest.raises(ConfigError, match=line):
            prepare(from_dict(RUN | {"model": RUN["model"] | changes}))


def test_normalisation_inside_the_file_wins(tmp_path, caplog):
    network = nn.Sequential(prepare(from_dict(RUN)).model[0], build_network())
    network[0].mean.fill_(0.125)
    prepared = prepare(configure(save(network, tmp_path / "net.safetensors", save=save_file)))
    assert float(prepared.model[0].mean) == 0.125 and equal(network[1].state_dict(), read_network(prepared))
    assert not caplog.messages
    prepared = prepare(configure(tmp_path / "net.safetensors", mean=[0.5], std=[0.25]))
    assert float(prepared.model[0].mean) == 0.125
    (line,) = caplog.messages
    assert line.endswith("has its own normalisation, which replaces model.mean and model.std")


def test_on_the_command_line_a_run_tells_it_and_goes_on_with_the_same_weights_alone(advcore, tmp_path):
    path, file, folder = save(build_network(3), tmp_path / "net.pt"), tmp_path / "run.yaml", tmp_path / "run"
    model = RUN["model"] | {"weights": str(path), "new_head": True}
    file.write_text(json.dumps(RUN | {"model": model, "training": RUN["training"] | {"head_epochs": 1}}))
    code, out, err = advcore("run", file, "--out", folder)
    assert code == 0 and "starts from the weights in" in out, err
    record = RunRecord.load(folder / "record.json")
    assert len(record.inputs["model.weights"]) == 64
    path.rename(tmp_path / "moved.pt")
    assert advcore("evaluate", folder)[0] == 0, "it needs the run's own weights alone"
    with torch.no_grad():
        changed = build_network(3)
        changed[13].bias.add_(1)
    save(changed, path)
    code, _, err = advcore("run", file, "--out", folder, "--set", "training.epochs=2", "--resume")
    assert code == 2 and "given the files that the run began with" in err


def test_the_cost_of_the_run_that_wrote_the_weights_is_recorded(tmp_path):
    """Its passes, evaluations left out, and those of the run that it began from itself."""
    first = run(prepare(from_dict(RUN)), tmp_path / "first")
    second = run(prepare(configure(tmp_path / "first/checkpoints/last.safetensors")), tmp_path / "second")
    third = run(prepare(configure(tmp_path / "second/checkpoints/best.safetensors")), tmp_path / "third")
    spent = [count_passes(record) for record in (first, second)]
    flops = [count_flops(record) for record in (first, second)]
    assert first.pretraining == {}
    assert second.pretraining == {"run": first.name, "passes": spent[0], "flops": flops[0]}
    assert third.pretraining == {"run": second.name, "passes": sum(spent), "flops": sum(flops)}
    moved = (tmp_path / "first/checkpoints/last.safetensors").rename(tmp_path / "moved.safetensors")
    longer = configure(moved)
    longer = replace(longer, training=replace(longer.training, epochs=2))
    assert run(prepare(longer), tmp_path / "second", resume=True).pretraining == second.pretraining
