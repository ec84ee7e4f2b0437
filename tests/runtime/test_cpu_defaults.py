"""Defaults on a CPU come from a committed table, and a run that goes on keeps what it began with."""

import copy
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.data.source import Resident
from advcore.errors import CheckpointError
from advcore.models import MODELS
from advcore.models.base import Normalize
from advcore.objectives import Pgd
from advcore.runtime import cpu_defaults, heap
from advcore.runtime import precision as speed
from advcore.runtime.precision import FAMILY, Speed, find_family
from advcore.selection.schedule import Schedule
from advcore.training import SGD
from advcore.training.loop import Listener

CPU = torch.device("cpu")
TABLE = {
    "2.9": {"small_cnn": {"channels_last": False, "fused": True}},
    "2.13": {"small_cnn": {"channels_last": True, "fused": True}, "resnet": {"channels_last": True, "fused": False}},
}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(cpu_defaults, "CPU_DEFAULTS", TABLE)
    monkeypatch.setattr(torch, "__version__", "2.14.1+cpu")


@pytest.mark.parametrize(
    "version, family, settings",
    [
        ("2.8.3", "small_cnn", {}),
        ("2.9.0", "small_cnn", TABLE["2.9"]["small_cnn"]),
        ("2.12.1+cu130", "small_cnn", TABLE["2.9"]["small_cnn"]),
        ("2.13.0", "resnet", TABLE["2.13"]["resnet"]),
        ("2.13.0a0+git1234", "small_cnn", TABLE["2.13"]["small_cnn"]),
        ("3.0.0", "small_cnn", TABLE["2.13"]["small_cnn"]),
        ("3.0.0", "alexnet", {}),
        ("3.0.0", None, {}),
        ("unknown", "small_cnn", {}),
    ],
)
def test_the_newest_release_that_is_not_newer_counts(table, version, family, settings):
    assert cpu_defaults.look_up_defaults(family, version) == settings


def test_an_empty_table_leaves_everything_off(monkeypatch):
    monkeypatch.setattr(cpu_defaults, "CPU_DEFAULTS", {})
    assert Speed().resolve(CPU, family="small_cnn") == speed.PLAIN


def test_what_is_set_wins_over_the_table_and_cuda_does_not_read_it(table):
    assert Speed().resolve(CPU, family="small_cnn") == replace(speed.PLAIN, channels_last=True, fused=True)
    assert Speed().resolve(CPU, family="resnet") == replace(speed.PLAIN, channels_last=True)
    asked = Speed(channels_last=False, fused=False)
    assert asked.resolve(CPU, family="small_cnn") == speed.PLAIN
    cuda = torch.device("cuda")
    assert Speed().resolve(cuda, family="small_cnn") == Speed().resolve(cuda)


def test_our_models_name_their_family_and_others_are_of_none(table):
    shape = (3, 32, 32)
    families = {name: cls.family for name, cls in MODELS.items()}
    assert families == {
        "small_cnn": "small_cnn", "alexnet_cifar": "alexnet", "resnet18": "resnet", "resnet50": "resnet",
        "preact_resnet18": "preact_resnet", "wide_resnet28_10": "wide_resnet", "wide_resnet34_10": "wide_resnet",
        "mnist_cnn": None, "timm": None,
        "torchvision": None,
    }  # fmt: skip
    small = MODELS["small_cnn"](width=2).build(4, shape)
    inside = nn.Sequential(Normalize(torch.zeros(3), torch.ones(3)), small)
    assert find_family(small) == find_family(inside) == find_family(copy.deepcopy(inside)) == "small_cnn"
    assert FAMILY not in "".join(inside.state_dict())
    assert find_family(nn.Sequential(small, nn.Linear(4, 4))) is None  # a larger network
    assert find_family(nn.Linear(4, 4)) is find_family(nn.Sequential()) is None
    x = torch.rand(2, *shape)
    assert Speed().resolve_for(inside, x).channels_last
    assert Speed().resolve_for(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 4)), x) == speed.PLAIN


def test_the_table_is_what_the_committed_records_say(script):
    measured = script("cpu_defaults_table")
    assert measured.table() == cpu_defaults.CPU_DEFAULTS, "run make pages"
    assert measured.table() and not any(record["quick"] for record in measured.defaults_records())


def test_a_family_takes_what_is_faster_in_all_of_its_cases(script):
    def case(family, layout, sgd, adam):
        return {"family": family, "channels_last": {"ratio": layout}, "fused": {"sgd": sgd, "adam": adam}}

    cases = [case("a", 1.2, 1.5, 1.5), case("a", 1.02, 1.5, 1.5), case("b", 1.04, 1.5, 0.9), case("b", 1.2, 2.0, 2.0)]
    found = script("cpu_defaults_table").defaults_of({"cases": cases})
    assert found == {
        "a": {"channels_last": False, "fused": True},
        "b": {"channels_last": True, "fused": False},
    }


def fit(model, data, state=None, asked=None, epochs=3, **more):
    """Train from the beginning or from a state: the weights at the end, the states of each epoch, and the loop."""
    states = []
    trainer = Trainer(
        objective=Pgd(),
        attack=LinfPGD(eps=0.1, steps=2),
        optimizer=SGD(lr=0.05),
        schedule=Schedule(epochs=epochs),
        batch_size=16,
        speed=asked or Speed(),
        **more,
    )
    listener = Listener(on_checkpoint=lambda state: states.append(state()))
    return trainer.fit(copy.deepcopy(model), data, resume=state, listener=listener).last, states


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 12, 12), dtype=torch.uint8, generator=generator)
    return Resident(images, torch.arange(48) % 4, CPU)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MODELS["small_cnn"](width=4).build(4, (3, 12, 12))


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_goes_on_with_what_it_began_with_whatever_the_table_says_now(table, monkeypatch, model, data):
    fast, states = fit(model, data)
    assert states[0]["speed"] == {"device": "cpu"} | {
        "autocast": "none", "channels_last": True, "compiled": False, "fused": True, "graphed": False,
    }  # fmt: skip
    slow, slow_states = fit(model, data, asked=Speed(channels_last=False, fused=False))
    assert not equal(fast, slow), "the layouts round alike here, so that this test shows nothing"
    monkeypatch.setattr(cpu_defaults, "CPU_DEFAULTS", {})  # as under an older torch
    assert equal(fit(model, data, states[0])[0], fast)
    monkeypatch.setattr(cpu_defaults, "CPU_DEFAULTS", TABLE)
    ended, later = fit(model, data, slow_states[0])
    assert equal(ended, slow) and not later[-1]["speed"]["channels_last"]


def test_a_state_from_before_the_table_goes_on_channels_first(table, model, data):
    slow, states = fit(model, data, asked=Speed(channels_last=False, fused=False))
    before = {name: value for name, value in states[0].items() if name != "speed"}
    assert equal(fit(model, data, before)[0], slow)
    deferred, states = fit(model, data, asked=Speed(channels_last=False, deferred=True))
    before = {name: value for name, value in states[0].items() if name != "speed"}
    assert equal(fit(model, data, before, asked=Speed(deferred=True))[0], deferred)


def test_a_state_of_another_kind_of_device_leaves_this_ones_defaults(table):
    recorded = Speed().resolve(torch.device("cuda")).record(torch.device("cuda"))
    assert Speed().complete_from(recorded, CPU) == Speed()
    assert Speed().complete_from(None, torch.device("cuda")) == Speed()
    assert Speed().complete_from(recorded, torch.device("cuda")).autocast == "bfloat16"


def test_what_is_set_wins_over_what_was_recorded():
    recorded = speed.PLAIN.record(CPU)
    assert Speed(channels_last=True).complete_from(recorded, CPU) == Speed(
        autocast="none", channels_last=True, compiled=False, fused=False, graphed=False
    )
    assert Speed(deferred=True).complete_from(recorded, CPU).resolve(CPU).fused


@pytest.mark.parametrize("junk", [{"speed": 3}, {"speed": {"device": "cpu"}}, {"speed": {}}, []])
def test_a_state_whose_speed_is_damaged_is_refused_in_a_line(junk, model, data):
    with pytest.raises(CheckpointError, match="resume must be a state of this run") as caught:
        fit(model, data, junk)
    assert "\n" not in str(caught.value)


def test_the_first_process_decides_for_all(monkeypatch, table, model, data):
    """Stand-in for several: what the first answers is what a process takes, whatever its own torch says."""
    asked = []

    def by_first(function):
        asked.append(function())
        return asdict(speed.PLAIN) if len(asked) == 1 else asked[-1]

    monkeypatch.setattr("advcore.training.loop.distributed.run_on_first", by_first)
    _, states = fit(model, data, epochs=1)
    assert asked[0]["channels_last"] and not states[0]["speed"]["channels_last"]


FAULTS = """
import ctypes, resource, sys
from advcore.runtime import heap
if "keep" in sys.argv:
    assert heap.keep_freed_memory({})
library, size = ctypes.CDLL(None), ctypes.c_size_t(2**26)  # 64 MB, which glibc by default returns at once
library.malloc.restype = ctypes.c_void_p
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(library.malloc(size))
    library.memset(block, 1, size)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not heap.keep_freed_memory({}), reason="needs glibc")
def test_memory_that_is_kept_is_not_mapped_again():
    counts = {}
    for how in ("keep", "leave"):
        out = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, env=_plain())
        assert out.returncode == 0, out.stderr
        counts[how] = int(out.stdout)
    assert counts["keep"] < 8 < 32 <= counts["leave"]  # 32 pages where they are huge, 16,384 where they are not


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in heap.USERS_CHOICE}


@pytest.mark.parametrize("name", heap.USERS_CHOICE)
def test_a_users_own_choice_of_an_allocator_stands(name, monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("the C library was asked"))
    assert not heap.keep_freed_memory({name: "x"})


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(error, monkeypatch):
    def none(name):
        raise error

    monkeypatch.setattr(heap.ctypes, "CDLL", none)
    assert not heap.keep_freed_memory({})


def test_the_command_line_keeps_freed_memory_and_training_does_not(monkeypatch, model, data):
    from advcore import cli

    called = []
    monkeypatch.setattr(heap, "keep_freed_memory", lambda: called.append("training"))
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append("command line"))
    monkeypatch.setattr(sys, "argv", ["advcore", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    fit(model, data, epochs=1)
    assert called == ["command line"]
