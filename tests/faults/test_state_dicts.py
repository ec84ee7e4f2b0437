"""Models whose state dicts hold more than plain finite tensors train, are evaluated, saved and resumed as they are."""

import copy

import pytest
import torch
from torch import nn

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.errors import CheckpointError, ConfigError, NonFiniteError
from advcore.files import load_folder, load_tensors, save_folder, save_tensors
from advcore.objectives import Pgd
from advcore.run.weights import load_state
from advcore.runtime.states import copy_state, is_same
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig
from advcore.training import SGD
from advcore.training.loop import Listener

pytestmark = pytest.mark.filterwarnings("ignore:.*(quantized|TypedStorage|sparse|Sparse|nested)")
ATTACK = LinfPGD(eps=0.1, steps=2)


class Odd(nn.Module):
    """A layer that returns its input, and puts something unusual into the state dict."""

    def forward(self, h):
        return h


class WithBuffer(Odd):
    def __init__(self, buffer: torch.Tensor):
        super().__init__()
        self.register_buffer("odd", buffer)


class WithExtra(Odd):
    def __init__(self, extra: object):
        super().__init__()
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class Masked(Odd):
    """Adds 0 or -inf to features, half of which it drops so; the mask is persistent."""

    def __init__(self):
        super().__init__()
        mask = torch.zeros(24)
        mask[::2] = float("-inf")
        self.register_buffer("mask", mask)

    def forward(self, h):
        return (h + self.mask).relu()


class WithFrozen(Odd):
    """Holds a parameter that no step moves, with an infinite value."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Parameter(torch.tensor([float("inf"), 1.0]), requires_grad=False)


def quantise_channels() -> torch.Tensor:
    return torch.quantize_per_channel(torch.rand(3, 2), torch.rand(3), torch.zeros(3).long(), 0, torch.qint8)


ODD = {
    "extra dict": lambda: WithExtra({"steps": 3, "scale": (1, 2.5), "amax": torch.ones(2)}),
    "extra bytes": lambda: WithExtra(b"\x00abc"),
    "extra None": lambda: WithExtra(None),
    "extra tensor": lambda: WithExtra(torch.ones(3)),
    "expanded": lambda: WithBuffer(torch.rand(3, 1).expand(3, 5)),
    "expanded scalar": lambda: WithBuffer(torch.tensor(2.0).expand(4)),
    "expanded integers": lambda: WithBuffer(torch.arange(4).expand(2, 4)),
    "quantised": lambda: WithBuffer(torch.quantize_per_tensor(torch.rand(4), 0.1, 2, torch.quint8)),
    "quantised by channels": lambda: WithBuffer(quantise_channels()),
    "sparse": lambda: WithBuffer(torch.eye(3).to_sparse()),
    "-inf in a buffer": lambda: WithBuffer(torch.tensor([0.0, float("-inf")])),
    "NaN in a buffer": lambda: WithBuffer(torch.tensor([0.0, float("nan")])),
    "compressed sparse rows": lambda: WithBuffer(torch.eye(3).to_sparse_csr()),
    "8-bit floats": lambda: WithBuffer(torch.rand(4).to(torch.float8_e4m3fn)),
    "complex": lambda: WithBuffer(torch.rand(4).to(torch.complex64)),
    "unsigned": lambda: WithBuffer(torch.arange(3).to(torch.uint16)),
    "half": lambda: WithBuffer(torch.rand(3).half()),
    "bool": lambda: WithBuffer(torch.tensor([True, False])),
    "mask": Masked,
    "infinite frozen parameter": WithFrozen,
}
UNCOPIED = ("compressed sparse rows",)
"""What copy.deepcopy refuses."""
QUICK = ("extra dict", "expanded", "quantised", "sparse", "mask")
each_oddity = pytest.mark.parametrize(
    "build",
    [pytest.param(build, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name, build in ODD.items()],
)


@pytest.fixture
def odd(model, build):
    """The small network with an odd layer before its head."""
    return nn.Sequential(*model[:-1], build(), model[-1])


def trainer(**changes) -> Trainer:
    selector = AdversarialCoreset(objective=Pgd(), solver=Craig(), attack=ATTACK, budget=0.5)
    schedule = Schedule(epochs=2, budget=0.5, warm_start=0.5, period=None)
    settings = {"objective": Pgd(), "attack": ATTACK, "schedule": schedule, "selector": selector, "batch_size": 48}
    return Trainer(**settings | {"optimizer": SGD(lr=0.05)} | changes)


def assert_same(state, expected) -> None:
    assert state.keys() == expected.keys()
    assert all(is_same(name, state[name], expected[name]) for name in expected)


@each_oddity
def test_it_trains_and_what_is_odd_stays_as_it_is(odd, source):
    before = copy_state(odd)
    trained = trainer().fit(odd, source, source, seed=0)
    assert len(trained.coresets) == 1
    assert_same(trained.last, copy_state(odd))
    names = [name for name in before if name.startswith("5.")]
    assert names and all(is_same(name, trained.last[name], before[name]) for name in names)
    assert not torch.equal(before["6.weight"], trained.last["6.weight"])


@each_oddity
def test_it_is_evaluated_with_checks_and_comes_back(odd, source):
    before = copy_state(odd)
    result = evaluate(odd, source, [ATTACK], checks=True)
    assert not [flag for flag in result.flags if flag.startswith("dynamic")]
    assert_same(copy_state(odd), before)


@each_oddity
def test_its_verdicts_are_resumed_from_a_file_unless_it_changed(odd, source, tmp_path):
    first = evaluate(odd, source, [ATTACK], state=tmp_path / "verdicts.npz")
    assert evaluate(odd, source, [ATTACK], state=tmp_path / "verdicts.npz").worst == first.worst
    odd[6].weight.data += 1
    with pytest.raises(CheckpointError, match="another evaluation"):
        evaluate(odd, source, [ATTACK], state=tmp_path / "verdicts.npz")


@each_oddity
def test_a_file_of_its_weights_is_read_back(odd, tmp_path):
    state = copy_state(odd)
    save_tensors(tmp_path / "w.safetensors", odd.state_dict(), {})
    assert_same(load_tensors(tmp_path / "w.safetensors")[0], state)
    nn.init.zeros_(odd[6].weight)
    load_state(odd, tmp_path / "w.safetensors")
    assert_same(copy_state(odd), state)


@pytest.mark.parametrize("build", [lambda: nn.Sequential(*(ODD[name]() for name in ODD if name not in UNCOPIED))])
@pytest.mark.parametrize("ema", [pytest.param(None, marks=pytest.mark.slow), 0.5])
def test_a_run_with_all_of_them_is_resumed_bit_for_bit_through_a_folder(odd, source, tmp_path, ema):
    untouched = copy.deepcopy(odd)
    states = []
    listener = Listener(on_checkpoint=lambda take: states.append(take()))
    whole = trainer(ema=ema).fit(odd, source, source, seed=0, listener=listener)
    save_folder(tmp_path / "state", states[0], {})
    for snapshot in (states[0], load_folder(tmp_path / "state")[0]):
        net = copy.deepcopy(untouched)
        rest = trainer(ema=ema).fit(net, source, source, seed=0, resume=snapshot)
        assert_same(rest.last, whole.last)
        assert_same(rest.best, whole.best)
        assert_same(copy_state(net), copy_state(odd))


def test_a_nested_buffer_is_trained_and_evaluated_beside(model, source):
    """Torch itself does not load one."""
    nested = WithBuffer(torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]))
    odd = nn.Sequential(*model[:-1], nested, model[-1])
    trainer().fit(odd, source, source, seed=0)
    assert not [flag for flag in evaluate(odd, source, [ATTACK], checks=True).flags if flag.startswith("dynamic")]


def test_an_average_of_a_model_that_cannot_be_copied_is_refused_in_one_line(model, source):
    odd = nn.Sequential(*model[:-1], ODD["compressed sparse rows"](), model[-1])
    with pytest.raises(ConfigError, match="^ema must be null for a model that cannot be copied, got 0.5") as caught:
        trainer(ema=0.5).fit(odd, source)
    assert "\n" not in str(caught.value)


def test_extra_state_that_could_not_be_read_back_is_refused_before_the_first_epoch(model, source):
    odd = nn.Sequential(*model[:-1], WithExtra(ATTACK), model[-1])
    listener = Listener(on_checkpoint=lambda take: take(), on_epoch=lambda entry, out: pytest.fail("it trained"))
    with pytest.raises(
        ConfigError, match=r"^the model's state 5._extra_state must be made of tensors, .*LinfPGD"
    ) as told:
        trainer().fit(odd, source, seed=0, listener=listener)
    assert "\n" not in str(told.value)
    trainer().fit(odd, source, seed=0)  # where nobody saves it, it is nobody's affair


def test_extra_state_that_changes_in_a_pass_is_flagged(model, source):
    class Counting(WithExtra):
        def forward(self, h):
            self.extra = {"calls": self.extra["calls"] + 1}
            return h

    odd = nn.Sequential(*model[:-1], Counting({"calls": 0}), model[-1])
    assert any(flag.startswith("dynamic") for flag in evaluate(odd, source, [ATTACK], checks=True).flags)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_parameter_that_a_step_made_infinite_is_divergence(model, source, bad):
    """Also one that lies beside a value that was infinite from the start."""
    odd = nn.Sequential(*model[:-1], WithFrozen(), model[-1])

    def spoil(phase, done, total):
        odd[5].frozen.data[1] = bad

    with pytest.raises(NonFiniteError, match="after epoch 0; the epoch was not saved"):
        trainer().fit(odd, source, seed=0, listener=Listener(on_progress=spoil))


# ---- prefixes that wrappers put before names ----


def save_wrapped(path, state, *prefixes: str, **more) -> None:
    saved = {prefix + name: value for prefix in prefixes for name, value in state.items()}
    torch.save({**saved, **more}, path)


PREFIXES = [
    "",
    "module.",
    "_orig_mod.",
    "model.",
    "module._orig_mod.",
    "ema.",
    "ema_model.module.",
    "net.0.",
    "_fsdp_wrapped_module.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("average", [{}, {"n_averaged": torch.tensor(7)}], ids=["", "n_averaged"])
def test_weights_are_found_under_any_prefix(model, tmp_path, prefix, average):
    state = copy_state(model)
    save_wrapped(tmp_path / "w.pt", state, prefix, **average)
    nn.init.zeros_(model[5].weight)
    load_state(model, tmp_path / "w.pt")
    assert_same(copy_state(model), state)


@pytest.mark.slow
def test_weights_of_torch_s_own_wrappers_are_read(model, tmp_path):
    state = copy_state(model)
    wrappers = [
        torch.optim.swa_utils.AveragedModel(model),
        nn.DataParallel(model),
        torch.compile(model, backend="eager"),
        nn.Sequential(*model[:5], torch.compile(model[5], backend="eager")),
    ]
    for wrapped in wrappers:
        torch.save({"state_dict": wrapped.state_dict(), "epoch": 3}, tmp_path / "w.pt")
        net = copy.deepcopy(model)
        nn.init.zeros_(net[5].weight)
        load_state(net, tmp_path / "w.pt")
        assert_same(copy_state(net), state)


def test_what_a_lightning_module_holds_beside_the_model_is_left_out_and_told(model, tmp_path, caplog):
    state = copy_state(model)
    save_wrapped(tmp_path / "w.pt", state, "model.", **{"criterion.weight": torch.ones(4)})
    nn.init.zeros_(model[5].weight)
    load_state(model, tmp_path / "w.pt")
    assert_same(copy_state(model), state)
    assert caplog.messages == [
        f"{tmp_path / 'w.pt'}: left out entries outside the model under model.: criterion.weight"
    ]


def test_a_file_of_torch_may_hold_extra_state(model, tmp_path):
    odd = nn.Sequential(*model[:-1], ODD["extra dict"](), model[-1])
    state = copy_state(odd)
    save_wrapped(tmp_path / "w.pt", state, "module.")
    odd[5].extra = None
    load_state(odd, tmp_path / "w.pt")
    assert_same(copy_state(odd), state)


def test_weights_that_are_there_twice_are_refused(model, tmp_path):
    save_wrapped(tmp_path / "w.pt", copy_state(model), "model.", "ema.module.")
    with pytest.raises(
        CheckpointError, match="holds the weights under 'model.' and 'ema.module.'; save the state dict"
    ):
        load_state(model, tmp_path / "w.pt")


def test_a_file_of_several_state_dicts_is_refused_by_their_names(model, tmp_path):
    torch.save({"state_dict": copy_state(model), "state_dict_ema": copy_state(model), "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"holds several state dicts, \['state_dict', 'state_dict_ema'\]; save"):
        load_state(model, tmp_path / "w.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_what_does_not_fit_is_still_refused_with_its_keys(model, tmp_path, prefix):
    state = copy_state(model)
    del state["5.bias"]
    save_wrapped(tmp_path / "w.pt", state, prefix)
    with pytest.raises(CheckpointError, match="not in the file"):
        load_state(model, tmp_path / "w.pt")


def test_a_model_whose_submodule_is_called_module_keeps_its_names(model, tmp_path):
    wrapped = nn.DataParallel(model)
    state = copy_state(wrapped)
    torch.save(state, tmp_path / "w.pt")
    nn.init.zeros_(model[5].weight)
    load_state(wrapped, tmp_path / "w.pt")
    assert_same(copy_state(wrapped), state)


class Versioned(nn.Linear):
    """As torchvision's MNASNet: it loads nothing that does not say of which version it is."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *more):
        if metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *more)


def test_a_layer_that_asks_for_its_version_is_loaded(tmp_path):
    net = Versioned(3, 2)
    torch.save(dict(net.state_dict()), tmp_path / "net.pt")
    other = Versioned(3, 2)
    load_state(other, tmp_path / "net.pt")
    assert torch.equal(net.weight, other.weight)
