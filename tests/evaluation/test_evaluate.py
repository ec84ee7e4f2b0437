"""Clean and robust accuracy: the worst iterate of the worst restart, and nothing disturbed."""

import functools
import itertools
import json
import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from examples import build_example
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import by_plain_kernels
from scipy.stats import binomtest
from seeds import seeded
from torch import nn
from torch.utils.data import TensorDataset

from advcore.attacks import ATTACKS
from advcore.attacks.base import take_input_gradient
from advcore.attacks.pgd import PGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError, DataError, NonFiniteError
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.comparisons import flag_order
from advcore.evaluation.evaluate import EVALUATED, evaluate
from advcore.evaluation.intervals import wilson

N, SHAPE, CLASSES = 60, (1, 4, 4), 3
EPS = {"linf": 0.05, "l2": 0.15, "l1": 0.4}
EVERY = pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if issubclass(kind, PGD)])


def images(dtype=torch.float64):
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def network():
    with seeded(3):
        body = [
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        ]
        model = nn.Sequential(*body).double()
        model(images())
        return model.eval()


@functools.cache
def _labels():
    said = network()(images()).argmax(1)
    return torch.where(torch.arange(N) % 6 == 0, (said + 1) % CLASSES, said)


def labels():
    """What the network says, but for every sixth example, so that clean accuracy is 5 / 6."""
    return _labels().clone()


def source():
    return Resident(images(), labels())


def attack(name, **changes):
    return ATTACKS[name](**{"eps": EPS[ATTACKS[name].norm], "steps": 4, **changes})


def robust(*attacks, model=None, **settings):
    return [entry["accuracy"] for entry in evaluate(model or network(), source(), attacks, **settings).attacks]


# ---- intervals ----


@pytest.mark.case("E9")
@settings(deadline=None, derandomize=True, max_examples=60)
@given(n=st.integers(1, 20000), share=st.floats(0, 1))
def test_the_interval_is_scipys_wilson_interval(n, share):
    correct = round(share * n)
    expected = binomtest(correct, n).proportion_ci(0.95, "wilson")
    got = wilson(correct, n)
    assert (got.accuracy, got.n) == (correct / n, n)
    assert got.interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= got.interval[0] <= got.accuracy <= got.interval[1] <= 1


# ---- numbers ----


@pytest.mark.case("E5")
@EVERY
def test_clean_and_robust_accuracy_are_counts_of_single_examples(name):
    """The slow twin: one example at a time, misclassified if any iterate is; a start without a draw."""
    model, chosen = network(), attack(name, start="clean", steps=3)
    step, project = chosen.geometry.step, chosen.geometry.project
    clean = stands = 0
    for x, y in zip(images().split(1), labels().split(1), strict=True):

        def loss(z, y=y):
            return nn.functional.cross_entropy(model(z), y, reduction="none")

        visited = [x]
        for _ in range(chosen.steps):
            gradient = take_input_gradient(loss, visited[-1])[1]
            visited.append(project(step(visited[-1], gradient, chosen.length), x, chosen.eps))
        right = [bool(model(point).argmax(1) == y) for point in visited]
        clean, stands = clean + right[0], stands + all(right)
    result = evaluate(model, source(), [chosen], batch_size=16)
    assert (result.clean.accuracy, result.clean.n) == (clean / N, N) and clean == 50
    assert result.attacks[0]["accuracy"] == stands / N and 0 < stands < clean


@pytest.mark.case("E5")
@EVERY
@pytest.mark.parametrize("start", ["uniform", "gaussian", "clean"])
def test_without_room_robust_is_clean_exactly(name, start):
    result = evaluate(network(), source(), [attack(name, eps=0.0, start=start, restarts=2)])
    assert result.attacks[0]["accuracy"] == result.clean.accuracy == 50 / N


@pytest.mark.case("E5")
@EVERY
def test_more_steps_of_one_size_never_help_the_defence(name):
    step_size = EPS[ATTACKS[name].norm] / 4
    by_steps = robust(*(attack(name, steps=k, step_size=step_size, start="clean") for k in (1, 2, 4, 8, 16)))
    assert by_steps == sorted(by_steps, reverse=True) and by_steps[0] > by_steps[-1]


@pytest.mark.case("E5")
@EVERY
def test_more_steps_never_help_the_defence_from_a_random_start_either(name):
    step_size = EPS[ATTACKS[name].norm] / 4
    accuracies = [robust(attack(name, steps=k, step_size=step_size))[0] for k in (1, 2, 4, 8)]
    assert accuracies == sorted(accuracies, reverse=True)


class Bumpy(nn.Module):
    """Two classes that take turns every 0.08 of brightness: where an ascent starts decides what it finds."""

    def __init__(self):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(5.0, dtype=torch.float64))

    def forward(self, x):
        wave = self.sharpness * torch.sin(x.flatten(1) @ torch.linspace(20, 60, 16, dtype=torch.float64))
        return torch.stack([wave + 3, -wave], 1)


@pytest.mark.case("E5")
@EVERY
def test_more_restarts_never_help_the_defence_and_here_they_hurt_it(name):
    data = Resident(images(), torch.zeros(N).long())
    weak = {"eps": EPS[ATTACKS[name].norm] * 0.4, "steps": 1, "step_size": 1e-3}
    accuracies = [
        evaluate(Bumpy(), data, [attack(name, restarts=r, **weak)]).attacks[0]["accuracy"] for r in (1, 2, 5, 10)
    ]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]


@EVERY
def test_the_answer_does_not_depend_on_the_batch_size(name):
    chosen = attack(name, restarts=2)
    assert len({tuple(robust(chosen, batch_size=size)) for size in (7, 20, 256)}) == 1


@EVERY
def test_the_seed_decides(name):
    weak = {"eps": EPS[ATTACKS[name].norm] * 0.4, "steps": 1, "step_size": 1e-3}
    data = Resident(images(), torch.zeros(N).long())
    first, again, *others = (
        evaluate(Bumpy(), data, [attack(name, **weak)], seed=seed).attacks[0]["accuracy"] for seed in (0, 0, 1, 2, 3)
    )
    assert first == again and set(others) != {first}


SMALL = {
    "linf_pgd": {"eps": 0.06},
    "l2_pgd": {"eps": 0.8},
    "l1_pgd": {"eps": 8.0},
    "fast_lpa": {"project": True},
    "lpa": {"steps": 4},
    "ppgd": {"steps": 4},
    "jpeg_linf": {"eps": 1.0},
}
"""Balls that leave some of `colours()` right, where those of the examples do not."""
FIT = pytest.mark.parametrize(
    "name",
    [name for name, kind in ATTACKS.items() if kind.training_only is not True and not build_example(kind).remembers],
)


def fit(name, **changes):
    return build_example(ATTACKS[name], **{"steps": 6, **SMALL.get(name, {}), **changes})


@functools.cache
def colours():
    """A network for 3 x 16 x 16 images, and 32 of them, of which it has every fourth wrong."""
    with seeded():
        body = [nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh(), nn.Flatten()]
        model = nn.Sequential(*body, nn.Linear(128, 4)).eval()
    x = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    return model, Resident(x, torch.where(torch.arange(32) % 4 == 0, (y + 1) % 4, y))


def right_under(*attacks, **settings):
    return evaluate(*colours(), attacks, **settings).attacks


@pytest.mark.case("E5", "E9")
def test_the_table_of_balls_is_whole():
    assert set(SMALL) <= set(ATTACKS) and set(EVALUATED) == set(ATTACKS) | {"autoattack"}


@pytest.mark.case("E5")
@FIT
@by_plain_kernels
def test_every_attack_without_room_leaves_the_clean_accuracy_exactly(name):
    found = evaluate(*colours(), [fit(name, eps=0.0, steps=2, restarts=2), fit(name, steps=2).scale(0.0)])
    assert [entry["accuracy"] for entry in found.attacks] == [found.clean.accuracy] * 2 == [0.75] * 2


@pytest.mark.case("E5")
@FIT
@by_plain_kernels
def test_restarts_of_any_attack_never_help_the_defence_on_any_example(name):
    attacks = [fit(name, steps=2, restarts=r).scale(0.3) for r in (1, 2, 3)]
    stood = [evaluate(*colours(), [attack]).verdicts["0"] for attack in attacks]
    assert not any(bool((more & ~fewer).any()) for fewer, more in itertools.pairwise(stood))


@pytest.mark.case("E5")
@FIT
@by_plain_kernels
def test_right_falls_with_the_ball_of_any_attack_or_there_is_a_flag(name):
    entries = right_under(*(fit(name).scale(part) for part in (0.0, 0.2, 0.5, 1.0)))
    accuracies = [entry["accuracy"] for entry in entries]
    risen = any(b["interval"][0] > a["interval"][1] for a, b in itertools.combinations(entries, 2))
    assert bool(flag_order(entries)) == risen
    assert not risen and accuracies[0] == 0.75 and accuracies[-1] < 0.5 * accuracies[0]


@pytest.mark.case("E5")
@EVERY
@pytest.mark.parametrize("steps", [1, 5, 20])
@by_plain_kernels
def test_in_a_ball_that_holds_every_image_right_is_chance_at_most(name, steps):
    largest = {"linf": 1.0, "l2": 768**0.5, "l1": 768.0}[ATTACKS[name].norm]
    (entry,) = right_under(ATTACKS[name](eps=largest, steps=steps))
    assert entry["accuracy"] <= 1 / 4


@pytest.mark.case("E9")
@FIT
@by_plain_kernels
def test_every_number_of_any_attack_says_how_it_was_made(name):
    (entry,) = right_under(fit(name, steps=2, restarts=2), seed=7, split="validation", indices=torch.arange(20))
    made = fit(name, steps=2)
    told = {"name": name, "norm": made.norm, "eps": made.eps, "steps": 2, "restarts": 2, "seed": 7, "n": 20}
    assert {key: entry[key] for key in told} == told and entry["split"] == "validation"
    assert entry["step_size"] > 0 and entry["interval"][0] <= entry["accuracy"] <= entry["interval"][1]
    json.dumps(entry, allow_nan=False)


@pytest.mark.case("E9")
def test_autoattack_says_as_much():
    pytest.importorskip("pyautoattack", reason="extra eval")
    told = {"norm", "eps", "version", "parts", "package", "steps", "step_size", "restarts"}
    assert set(AutoAttack(eps=0.1).describe()) == told


def test_each_attack_is_evaluated_on_its_own():
    strong, weak = attack("linf_pgd"), attack("linf_pgd", eps=0.001, start="clean")
    assert robust(strong, weak)[1] == robust(weak)[0] > robust(strong, weak)[0]


# ---- the worst iterate ----


@dataclass(frozen=True)
class Scripted:
    """Visits written-down shifts of the image and comes back to the clean one at the end."""

    shifts: tuple[float, ...]
    restarts: int = 1
    climbs: str = "own"
    norm: str = "linf"
    training_only: bool = False
    log: list = field(default_factory=list)
    probes_outside: bool = False

    def with_settings(self, **changes):
        return replace(self, **changes)

    def __call__(self, loss_fn, x, *, generator):
        self.log.append(generator.indices.tolist())
        for shift in self.shifts:
            take_input_gradient(loss_fn, x + shift)
        return x

    def describe(self):
        return {
            "norm": self.norm,
            "eps": 1.0,
            "steps": len(self.shifts),
            "step_size": 1.0,
            "restarts": self.restarts,
        }


class Threshold(nn.Module):
    """Class 1 for bright images."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        bright = self.scale * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], 1)


def dark(*levels):
    return Resident(torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, *SHAPE).clone(), torch.zeros(len(levels)).long())


@pytest.mark.case("E5")
def test_an_attack_that_passes_through_a_misclassified_point_and_comes_back_has_won():
    result = evaluate(Threshold(), dark(0.2, 0.3, 0.4), [Scripted((0.05, 0.25, 0.05))])
    assert result.clean.accuracy == 1.0
    assert result.attacks[0]["accuracy"] == pytest.approx(1 / 3)  # only 0.2 + 0.25 stays dark


def test_where_the_attack_ends_counts_too():
    @dataclass(frozen=True)
    class Ends(Scripted):
        def __call__(self, loss_fn, x, *, generator):
            return x + 0.25

    assert evaluate(Threshold(), dark(0.2, 0.3, 0.4), [Ends(())]).attacks[0]["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "batch_size, asked", [(4, [[0, 2, 3], [0, 3], [0, 3]]), (2, [[0], [0], [0], [2, 3], [3], [3]])]
)
def test_only_examples_still_right_are_attacked_and_draw_by_their_own_index(batch_size, asked):
    script = Scripted((0.25,), restarts=3)
    result = evaluate(Threshold(), dark(0.2, 0.9, 0.3, 0.1), [script], batch_size=batch_size)
    assert script.log == asked  # 1 is wrong from the start, 2 falls in the first try
    assert result.clean.accuracy == 0.75 and result.attacks[0]["accuracy"] == 0.5


def test_a_misclassified_example_stands_still():
    """Its loss is held at 0, so its gradient is 0 and no step leads back."""
    gradients = []

    @dataclass(frozen=True)
    class Probe(Scripted):
        def __call__(self, loss_fn, x, *, generator):
            gradients.extend(take_input_gradient(loss_fn, x + shift)[1].abs().amax((1, 2, 3)) for shift in self.shifts)
            return x

    evaluate(Threshold(), dark(0.2, 0.4), [Probe((0.05, 0.25, 0.05))])
    assert [(g > 0).tolist() for g in gradients] == [[True, True], [True, False], [True, False]]


def test_the_loss_an_attack_asks_for_is_the_one_it_climbs():
    seen = []

    @dataclass(frozen=True)
    class Asks(Scripted):
        climbs: str = "margin"

        def __call__(self, loss_fn, x, *, generator):
            seen.append(loss_fn(x).detach())
            return x

    evaluate(Threshold(), dark(0.2, 0.4), [Asks(())])
    assert torch.allclose(seen[0], torch.tensor([-6.0, -2.0]))  # 20 (brightness - 1/2)


# ---- what is reported ----


@pytest.mark.case("E9")
def test_every_number_says_how_it_was_made():
    result = evaluate(network(), source(), [attack("linf_pgd", restarts=2)], seed=5, split="validation")
    entry = result.as_dict()["attacks"][0]
    made = {"name": "linf_pgd", "norm": "linf", "eps": 0.05, "steps": 4, "restarts": 2}
    told = {**made, "seed": 5, "split": "validation"}
    assert {key: entry[key] for key in told} == told
    assert entry["step_size"] == pytest.approx(2.5 * 0.05 / 4) and entry["n"] == N
    assert entry["interval"] == list(wilson(round(entry["accuracy"] * N), N).interval)
    clean = result.as_dict()["clean"]
    assert set(clean) == {"accuracy", "n", "interval"} and clean["interval"] == list(wilson(50, N).interval)


def test_without_attacks_there_is_clean_accuracy_alone():
    result = evaluate(network(), source())
    assert result.attacks == () and result.clean.accuracy == 50 / N


@pytest.mark.parametrize("indices", [None, list(range(7)), [0, 6, 12, 5]])
def test_only_the_examples_asked_for_count(indices):
    asked = range(N) if indices is None else indices
    result = evaluate(network(), source(), indices=None if indices is None else torch.tensor(indices))
    wrong = sum(i % 6 == 0 for i in asked)
    assert (result.clean.n, result.clean.accuracy) == (len(asked), (len(asked) - wrong) / len(asked))


def test_any_map_style_data_set_will_do():
    dataset = TensorDataset(images(), labels())
    chosen = attack("linf_pgd")
    assert evaluate(network(), dataset, [chosen]) == evaluate(network(), source(), [chosen])


def test_all_passes_are_evaluation():
    ledger, chosen = CostLedger(), attack("linf_pgd", eps=1e-6)
    evaluate(network(), source(), [chosen], ledger=ledger)
    right = 50  # the attack is too weak to fool any: each pays its steps and one look at the end
    assert ledger.passes["evaluation"] == {
        "forward": N + right * (chosen.steps + 1),
        "backward": right * chosen.steps,
    }
    assert ledger.sum_units() == 0


def test_progress_is_told():
    told = []
    evaluate(network(), source(), batch_size=25, on_chunk=lambda done, total: told.append((done, total)))
    assert told == [(25, N), (50, N), (N, N)]


# ---- nothing disturbed ----


class Stop(Exception):
    pass


@dataclass(frozen=True)
class Fails(Scripted):
    def __call__(self, loss_fn, x, *, generator):
        loss_fn(x)
        torch.rand(3), np.random.rand(), random.random()
        raise Stop


def everything(model):
    return [
        {key: value.clone() for key, value in model.state_dict().items()},
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [module.training for module in model.modules()],
        (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()),
    ]


def unchanged(before, after):
    state = all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    grads = all(a is b is None or torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    rng = torch.equal(before[4][0], after[4][0]) and before[4][1:] == after[4][1:]
    return state and grads and rng and before[2:4] == after[2:4]


@pytest.mark.case("E2")
@pytest.mark.parametrize("fails", [False, True])
def test_model_gradients_modes_and_global_random_state_come_back_bitwise(fails):
    model = network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model(images()).sum().backward()
    before, x = everything(model), images()
    data = Resident(x, labels())
    after_labels = everything(model)
    assert unchanged(before, after_labels)
    if fails:
        with pytest.raises(Stop):
            evaluate(model, data, [Fails(())])
    else:
        evaluate(model, data, [attack("linf_pgd", restarts=2), attack("l2_pgd")])
    assert unchanged(before, everything(model)) and torch.equal(x, images())


def test_a_model_in_train_mode_is_evaluated_in_eval_mode():
    chosen = attack("linf_pgd")
    assert evaluate(network().train(), source(), [chosen]) == evaluate(network(), source(), [chosen])


def test_the_global_random_state_does_not_matter():
    chosen, answers = attack("linf_pgd", restarts=2), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        answers.append(evaluate(network(), source(), [chosen]))
    assert answers[0] == answers[1]


# ---- refusals ----


def test_an_attack_that_may_leave_its_ball_is_refused():
    @dataclass(frozen=True)
    class Loose(Scripted):
        training_only: bool = True

    loose = Loose(())
    with pytest.raises(ConfigError, match="Loose.*training only"):
        evaluate(network(), source(), [attack("linf_pgd"), loose])
    assert loose.log == []


def test_labels_beyond_the_logits_are_named():
    y = labels()
    y[41] = CLASSES
    with pytest.raises(DataError, match=f"0..{CLASSES - 1}, got {CLASSES} at example 41"):
        evaluate(network(), Resident(images(), y), batch_size=16)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_diverged_model_has_no_accuracy(poison):
    model = network()
    with torch.no_grad():
        model[-1].bias[0] = poison
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        evaluate(model, source())


@pytest.mark.case("F9")
def test_logit_gaps_of_any_size_have_an_accuracy():
    model = network()
    with torch.no_grad():
        model[-1].weight.mul_(1e4)
        model[-1].bias.mul_(1e4)
    result = evaluate(model, source(), [attack("linf_pgd"), attack("l2_pgd", restarts=2)])
    assert result.clean.accuracy == 50 / N and all(0 <= entry["accuracy"] < 50 / N for entry in result.attacks)


def test_settings_may_be_replaced_between_attacks():
    """A ramp or a sweep: the same frozen attack in another ball."""
    chosen = attack("linf_pgd")
    assert robust(chosen, replace(chosen, eps=0.0))[1] == 50 / N


def test_nan_at_an_attacked_point_is_not_robust():
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            right = torch.tensor([5.0, 0.0]).expand(len(x), 2) * self.scale
            moved = (x - 0.5).flatten(1).abs().amax(1, keepdim=True) > 0
            return torch.where(moved, x.flatten(1).sum(1, keepdim=True) * float("nan"), right + 0 * x.flatten(1)[:, :1])

    still = Resident(torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.long))
    found = evaluate(Fragile(), still, [attack("linf_pgd", eps=0.1)])
    assert found.clean.accuracy == 1 and found.attacks[0]["accuracy"] == 0
