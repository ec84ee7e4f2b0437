"""Plug-ins whose code breaks what it promises: one line, exit code 2, before anything is trained or written."""

import json
from dataclasses import field
from functools import partial

import pytest
import torch
from plug_ins import NET, forget_plugins
from plug_ins import RUN as NET_RUN

from advcore import evaluate, register
from advcore.adversary import check_attacked
from advcore.attacks import LinfPGD
from advcore.config.load import from_dict
from advcore.data.augment import augment_images
from advcore.errors import ConfigError, DataError
from advcore.minibatch.base import AttackSubset, Seen, UpdateSubset
from advcore.models import MODELS
from advcore.register import plugins
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.run.prepare import prepare
from advcore.selection.partition import Problem
from advcore.selection.solve import solve
from advcore.settings import settings
from advcore.training.loop_settings import refuse_untrainable
from advcore.training.lr import Constant
from advcore.training.optimizers import SGD, try_update
from advcore.types import Selection

RUN = NET_RUN | {"model": {"name": "small_cnn", "width": 2}}


@pytest.fixture(autouse=True)
def tables():
    """The tables, and what is loaded, as they were before the test."""
    with forget_plugins():
        yield


@settings
class Faulty(LinfPGD):
    """Returns what `fault` makes of the images."""

    fault: str = ""

    def __call__(self, loss_fn, x, *, generator):
        return FAULTS[self.fault][0](x)


FAULTS = {
    "": (lambda x: x, None),
    "outside its ball": (lambda x: (x + 0.5) % 1, r"in its ball of eps 0.1, got 'a point 0\.\d+ outside'"),
    "outside [0, 1]": (lambda x: x + 0.05, r"in \[0, 1\], got '0.05 to 1.05'; clamp it to \[0, 1\]"),
    "not a number": (lambda x: x * torch.nan, r"in \[0, 1\], got 'nan to nan'"),
    "nothing": (lambda x: None, r"images \(2, 1, 8, 8\) of floats, got 'NoneType'"),
    "fewer": (lambda x: x[:1], r"images \(2, 1, 8, 8\) of floats, got 'torch.float32 of shape \(1, 1, 8, 8\)'"),
    "whole numbers": (lambda x: x.long(), "images .* of floats, got 'torch.int64 of shape"),
}


@pytest.fixture
def x():
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    return x


@pytest.mark.parametrize("fault", FAULTS)
def test_an_attack_from_elsewhere_is_held_to_what_it_says(x, fault):
    attack = Faulty(eps=0.1, fault=fault)
    change, line = FAULTS[fault]
    if line is None:
        assert torch.equal(check_attacked(attack, x, x + 0.0), x)
        return
    with pytest.raises(ConfigError, match=f"^what Faulty returns must be {line}") as caught:
        check_attacked(attack, x, change(x))
    assert len(caught.value.lines) == 1
    check_attacked(LinfPGD(eps=0.1), x, change(x))  # advcore's own are held by tests


def test_an_attack_for_training_only_may_leave_its_ball(x):
    @settings
    class Free(Faulty):
        training_only = True

    assert check_attacked(Free(eps=0.1), x, (x + 0.5) % 1).shape == x.shape


@pytest.mark.parametrize("place", ["attack", "evaluation"])
def test_a_faulty_attack_is_refused_before_training(place):
    register.attack("faulty")(Faulty)
    faulty = {"name": "faulty", "eps": 0.1, "fault": "outside its ball"}
    changes = {"attack": {"attack": faulty}, "evaluation": {"evaluation": {"attacks": [faulty]}}}
    path = {"attack": "attack", "evaluation": "evaluation.attacks.0"}
    with pytest.raises(ConfigError, match=f"^{path[place]}: what Faulty returns must be in its ball"):
        prepare(from_dict(RUN | changes[place]))


def test_a_faulty_attack_is_refused_where_it_is_called(model, source):
    faulty = Faulty(eps=0.1, fault="outside its ball")
    with pytest.raises(ConfigError, match="^what Faulty returns must be in its ball"):
        evaluate(model, source, faulty, indices=range(4))
    assert evaluate(model, source, Faulty(eps=0.1), indices=range(4)).worst is not None


def augment_wrongly(x, generator):
    return 2 * x - 1


def test_a_transform_that_leaves_the_pixels_range_is_refused_before_training(x):
    stream = Stream(seed=0, purpose="augment").at(torch.arange(2))
    with pytest.raises(DataError, match=r"^augment: images must be finite and in \[0, 1\], got minimum -1 .* image 0;"):
        augment_images(augment_wrongly, x, stream)
    register.transform("wrongly")(augment_wrongly)
    with pytest.raises(DataError, match=r"^data\.augment: images must be finite and in \[0, 1\]"):
        prepare(from_dict(RUN | {"data": RUN["data"] | {"augment": "wrongly"}}))
    with pytest.raises(DataError, match=r"^data\.augment: images must be finite and in \[0, 1\]"):
        prepare(from_dict(RUN | {"data": RUN["data"] | {"augment": "crop+wrongly"}}))
    with pytest.raises(ConfigError, match=r"register.transform\('one'\) must be a function of 2 arguments"):
        register.transform("one")(abs)


def test_a_transform_that_changes_the_size_is_refused_before_training():
    register.transform("halve")(halve)
    with pytest.raises(
        ConfigError, match=r"^data\.augment must be a function that returns images of the same size, got"
    ):
        prepare(from_dict(RUN | {"data": RUN["data"] | {"augment": "halve"}}))


def halve(x, generator):
    return x[:, :, :4]


@settings
class Picking:
    """Picks `count` rows, from row `first` on."""

    first: int = 0
    count: int = 3
    reads = None

    def __call__(self, rows, k, *, target=None, generator):
        indices = torch.arange(self.first, self.first + self.count)
        return Selection(indices=indices, weights=torch.ones(self.count).double())


@pytest.mark.parametrize(("first", "count", "got"), [
    (0, 4, "4 picks from 0 to 3"), (-1, 3, "3 picks from -1 to 1"), (4, 3, "3 picks from 4 to 6"), (0, 3, None),
])  # fmt: skip
def test_a_solver_from_elsewhere_is_held_to_its_number_and_its_rows(first, count, got):
    members = torch.arange(10, 16)
    problem = Problem("all", partial(DenseRows, matrix=torch.ones(6, 2)), members, 3)
    stream = Stream(seed=0, purpose="select").at(members)
    if got is None:
        assert solve(Picking(), [problem], stream, members.device).indices.tolist() == [10, 11, 12]
        return
    with pytest.raises(
        ConfigError, match="^the answer of Picking must be at most 3 of the rows 0 to 5, as torch.int64"
    ) as caught:
        solve(Picking(first=first, count=count), [problem], stream, members.device)
    assert got in str(caught.value)


@settings
class Preferring(AttackSubset):
    """Prefers all examples alike."""

    value: float = 1.0
    reads = "logits"

    def compute_preferences(self, seen):
        return torch.full_like(seen.margins, self.value)


@settings
class Keeping(UpdateSubset):
    """Keeps the `kept` images."""

    kept: list[int] = field(default_factory=lambda: [0, 5])

    def keep(self, part, losses, generator):
        return torch.tensor(self.kept, dtype=torch.long)


def test_a_rule_from_elsewhere_is_held_to_what_it_can_pick():
    stream = Stream(seed=0, purpose="rule").at(torch.arange(4))
    seen = Seen(margins=torch.zeros(4), residuals=torch.zeros(4, 2), weights=torch.ones(4))
    assert len(Preferring(rho=0.5).pick(seen, stream).positions) == 2
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ConfigError, match="^the preferences of Preferring must be finite, and at least 0, got"):
            Preferring(rho=0.5, value=value).pick(seen, stream)
    assert Keeping().choose_images(0.5, None, stream).tolist() == [0, 5]
    for kept in ([], [1, 1], [2, 1], [-1, 2], [3, 8]):
        with pytest.raises(ConfigError, match="^what Keeping keeps must be some of the positions 0 to 7, ascending"):
            Keeping(kept=kept).choose_images(0.5, None, stream)


@settings
class Strange:
    """Builds what is no optimiser of the model."""

    lr: float = 0.1
    kind: str = "none"

    def build(self, model):
        other = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), self.lr)
        return {"none": None, "other": other, "settings": SGD(lr=0.1)}[self.kind]


@settings
class Rate:
    value: object = None

    def factor(self, progress, lr_index):
        return self.value


def test_an_optimiser_and_a_rate_from_elsewhere_are_looked_at_before_training(model):
    for kind, got in {"none": "NoneType", "settings": "SGD", "other": "SGD"}.items():
        with pytest.raises(ConfigError, match=f"^training.optimizer must be one whose .* the model's .*, got '{got}'$"):
            try_update(Strange(kind=kind), Constant(), model)
    for value in (None, float("nan"), -1.0):
        with pytest.raises(ConfigError, match="^training.lr_schedule: its factor at the start must be a number in"):
            try_update(SGD(lr=0.1), Rate(value=value), model)


def test_a_decorator_without_its_name_is_refused():
    for decorator in (register.model, register.attack, register.transform):
        with pytest.raises(ConfigError, match=r"must be given a name of letters.*got <class '.*Faulty'>"):
            decorator(Faulty)


def test_weights_with_nan_are_refused_before_training(model, source):
    refuse_untrainable(model)
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with pytest.raises(ConfigError, match="^model must be one with numbers to begin from, got 'NaN in 1.bias'; load"):
        refuse_untrainable(model)


@pytest.mark.parametrize("place", ["return self.classify(self.body(x))", "super().__init__()"])
def test_a_network_that_ends_the_process_ends_it_with_2(advcore, tmp_path, place):
    (tmp_path / "net.py").write_text(NET.replace(place, f"raise SystemExit(0); {place}"))
    (tmp_path / "run.yaml").write_text(json.dumps(RUN | {"model": {"name": "my_net"}}))
    status, out, err = advcore("check", tmp_path / "run.yaml", "--plugin", tmp_path / "net.py")
    assert status == 2 and not out and "raise SystemExit(0)" in err
    assert err.splitlines()[-1] == "advcore: a plug-in raised SystemExit: 0; its traceback is printed above"


@pytest.mark.slow
def test_without_its_plug_in_a_run_does_not_go_on(advcore, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "run.yaml").write_text(json.dumps(RUN | {"model": {"name": "my_net"}}))
    command = ("run", tmp_path / "run.yaml", "--out", tmp_path / "run")
    assert advcore(*command, "--plugin", tmp_path / "net.py")[0] == 0
    plugins.LOADED.clear()
    MODELS.pop("my_net")
    status, out, err = advcore(*command, "--resume", "--set", "training.epochs=2")
    assert status == 2 and not out and err.count("\n") == 1
    assert "got 'my_net'; register a name of your own with --plugin FILE.py" in err
