"""Optimisers and schedules of timm: against timm called by hand, on parts that rest, through a saved state."""

import copy

import pytest
import torch
from kernels import by_plain_kernels
from torch import nn

from advcore import Trainer
from advcore.config.load import from_dict, resolve
from advcore.errors import ConfigError
from advcore.files import load_folder, save_folder
from advcore.models import add_normalization
from advcore.objectives import Standard
from advcore.runtime.precision import Speed
from advcore.selection.schedule import Schedule
from advcore.settings import settings
from advcore.training import SGD, TimmOptimizer, TimmSchedule
from advcore.training.loop import Listener
from advcore.training.lr import bind_factor

pytest.importorskip("timm", reason="needs the package timm: install the extra hf")
from timm.optim import create_optimizer_v2  # noqa: E402 - it is an extra
from timm.scheduler import create_scheduler_v2  # noqa: E402


class Layered(nn.Module):
    """A network that tells timm its layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, 2, 1, bias=False)  # before BatchNorm its gradient would be noise
        self.block = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, 4)

    def group_matcher(self, coarse=False):
        return {"stem": "^stem", "blocks": [("^block", None), ("^head", (9,))]}

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


def build_trainer(optimizer, **changes):
    return Trainer(objective=Standard(), optimizer=optimizer, schedule=Schedule(epochs=3), batch_size=96, **changes)


@by_plain_kernels
@pytest.mark.parametrize(
    ("name", "more"),
    [("lamb", {}), ("adamw", {"layer_decay": 0.5}), ("sgd", {"layer_decay": 0.5, "options": {"nesterov": False}})],
)
def test_a_run_is_the_one_that_timm_makes_by_hand(source, name, more):
    net = Layered()
    ours, slow = add_normalization(copy.deepcopy(net), 0.5, 0.5), add_normalization(net, 0.5, 0.5).train()
    up = {"warmup_epochs": 1, "warmup_lr": 0.002}
    schedule = TimmSchedule(algorithm="cosine", epochs=3, options=up)
    trainer = build_trainer(TimmOptimizer(algorithm=name, lr=0.02, weight_decay=0.1, **more), lr_schedule=schedule)
    trained = trainer.fit(ours, source)
    arguments = {"layer_decay": more.get("layer_decay"), **more.get("options", {})}
    optimizer = create_optimizer_v2(net, name, lr=0.02, weight_decay=0.1, **arguments)
    scheduler, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=3, **up)
    _, x, y = next(source.batches([torch.arange(96)]))
    for epoch in range(3):
        scheduler.step(epoch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(slow(x), y).backward()
        optimizer.step()
    for key, value in slow.state_dict().items():
        assert torch.allclose(trained.last[key], value, atol=1e-5), key
    rates = {group["lr"] / 0.02 for group in optimizer.param_groups}
    assert len(rates) == (3 if "layer_decay" in more else 1)


@pytest.mark.parametrize("name", ["adafactorbv", "muon"])
def test_what_rests_at_first_trains_later_and_a_saved_state_leads_to_the_same_bits(model, source, tmp_path, name):
    trainer = build_trainer(TimmOptimizer(algorithm=name, lr=0.02), head_epochs=1)
    before, states, again = copy.deepcopy(model.state_dict()), [], copy.deepcopy(model)
    whole = trainer.fit(model, source, listener=Listener(on_checkpoint=lambda take: states.append(take()))).last
    assert not torch.equal(whole["0.weight"], before["0.weight"])
    save_folder(tmp_path / "state", states[0], {})
    resumed = trainer.fit(again, source, resume=load_folder(tmp_path / "state")[0]).last
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {"warmup_epochs": 2}),
        ("multistep", {"decay_milestones": [5, 8], "decay_rate": 0.1}),
        ("cosine", {"num_epochs": 5, "cycle_limit": 2, "min_lr": 0.01}),
        ("cosine", {"num_epochs": 6, "warmup_prefix": True, "warmup_epochs": 2, "cooldown_epochs": 2}),
        ("poly", {"decay_rate": 2.0}),
    ],
)
def test_a_schedule_gives_the_rates_that_timm_gives(name, options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, length = create_scheduler_v2(optimizer, name, **{"num_epochs": 10, **options})
    assert length == 10
    factor = bind_factor(TimmSchedule(algorithm=name, epochs=10, options=options), 0.5)
    for epoch in range(10):
        scheduler.step(epoch)
        assert 0.5 * factor(epoch / 10, 3) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"algorithm": "lmab"}, "training.optimizer.name must be timm:NAME .*'lmab'; did you mean 'lamb'"),
        (
            {"algorithm": "adahessian"},
            "training.optimizer.name must be timm:NAME with an optimiser .*first derivatives",
        ),
        ({"layer_decay": 0.5}, "training.optimizer.layer_decay must be 1 for a network without .*, got 0.5"),
        ({"options": {"bates": 1}}, "training.optimizer.options must be what timm can build lamb with.*bates"),
        (
            {"options": {"betas": 3}},
            "training.optimizer.options must be what timm can build lamb with, got {'betas': 3}; ",
        ),
        (
            {"options": {"betas": [0.9]}},
            "training.optimizer.options must be .*, got {'betas': .0.9.}; not enough values",
        ),
        ({"options": {"eps": "large"}}, "training.optimizer.options must be what timm can build lamb with, got {'eps'"),
    ],
)
def test_what_timm_cannot_build_is_one_line_before_training(model, source, changes, line):
    trainer = build_trainer(TimmOptimizer(**{"algorithm": "lamb", "lr": 0.1} | changes))
    with pytest.raises(ConfigError, match=f"^{line}") as caught:
        trainer.check(model, source)
    assert len(caught.value.lines) == 1
    assert "TypeError" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: TimmOptimizer(algorithm="lamb", lr=0.1, layer_decay=0), r"layer_decay must be a number in \(0, 1\]"),
        (lambda: TimmOptimizer(algorithm="lamb", lr=0.1, options={"opt": "x"}), "options must be of arguments .*opt"),
        (lambda: TimmSchedule(algorithm="cos", epochs=3), "name must be one of constant, cosine"),
        (lambda: TimmSchedule(algorithm="step", epochs=3, options={"noise": 1}), "options must be without .* noise"),
        (
            lambda: TimmSchedule(algorithm="cosine", epochs=3, options={"cycle_limit": 2}).bind(0.1),
            "training.lr_schedule.options must be of a schedule that takes 3 epochs in all, got .6 epochs",
        ),
        (
            lambda: TimmSchedule(algorithm="step", epochs=3, options={"decay": 2}).bind(0.1),
            "training.lr_schedule.options must be what timm can build step with",
        ),
        (
            lambda: build_trainer(TimmOptimizer(algorithm="lamb", lr=0.1), speed=Speed(fused=True)),
            "speed.fused, speed.deferred must be null or false with TimmOptimizer",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_line(build, line):
    with pytest.raises(ConfigError, match=f"^{line}") as caught:
        build()
    assert len(caught.value.lines) == 1


def test_a_run_file_names_them():
    training = {
        "epochs": 2,
        "optimizer": {"name": "timm:lamb", "lr": 0.1, "options": {"betas": [0.9, 0.98]}},
        "lr_schedule": {"name": "timm:cosine", "epochs": 2},
    }
    attack = {"name": "linf_pgd", "eps": 0.1}
    run = {"name": "x", "data": {"name": "digits"}, "model": {"name": "small_cnn"}, "objective": {"name": "pgd"}}
    config = from_dict(run | {"attack": attack, "training": training, "evaluation": {"attacks": [attack]}})
    assert config.training.optimizer.algorithm == "lamb"
    written = resolve(config)
    assert written["training"]["optimizer"]["name"] == "timm:lamb" and from_dict(written) == config
    assert written["training"]["lr_schedule"]["name"] == "timm:cosine"


def test_an_optimiser_of_ones_own_need_not_know_of_fused_steps(model, source):
    @settings
    class Own:
        lr: float = 0.05

        def build(self, model):
            return torch.optim.SGD(model.parameters(), self.lr)

    plain = SGD(lr=0.05, momentum=0.0, weight_decay=0.0)
    ours, theirs = (build_trainer(each).fit(copy.deepcopy(model), source).last for each in (Own(), plain))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
