"""Loss, weights and accuracies that are not finite: not applied, not saved, never the best."""

import copy
import dataclasses
import shutil

import pytest
import torch
from faults.injectors import Scripted

from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.errors import NonFiniteError
from advcore.evaluation.evaluate import Accuracy, Evaluation
from advcore.objectives import Pgd, Standard
from advcore.run import checkpoints
from advcore.selection.schedule import Schedule
from advcore.training import SGD
from advcore.training import step as steps
from advcore.training.loop import Listener

TRAINER = Trainer(
    objective=Pgd(), attack=LinfPGD(eps=0.1, steps=1), schedule=Schedule(epochs=3), optimizer=SGD(lr=0.1), batch_size=32
)
BAD = pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])


def breaking(monkeypatch, at: int, bad: float) -> None:
    """The loss of the `at`-th update is multiplied by something that is not finite."""
    factor, original = Scripted(*[1.0] * (at - 1), bad, 1.0), steps.reduce_losses
    monkeypatch.setattr(steps, "reduce_losses", lambda *arguments: original(*arguments) * factor())


@pytest.mark.case("C3")
@BAD
@pytest.mark.parametrize("at", [1, 5])
def test_a_loss_that_is_not_finite_is_not_applied_and_nothing_after_it_is_saved(model, source, monkeypatch, at, bad):
    """Every step before it was, bit for bit; three steps are an epoch."""
    weights, states = [], []

    def fit(net):
        learner = "advcore.training.epoch.EpochTrainer._update_average"  # after every update
        with monkeypatch.context() as patch:
            patch.setattr(learner, lambda loop: weights.append(copy.deepcopy(dict(net.named_parameters()))))
            TRAINER.fit(net, source, seed=0, listener=Listener(on_checkpoint=lambda state: states.append(state())))

    fit(copy.deepcopy(model))
    assert len(weights) == 9 and len(states) == 3
    before, net = [dict(model.named_parameters()), *weights][at - 1], copy.deepcopy(model)
    states.clear()
    breaking(monkeypatch, at, bad)
    with pytest.raises(NonFiniteError) as stopped:
        fit(net)
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())
    assert [state["place"]["epoch"] for state in states] == [1][: at // 4]
    told = str(stopped.value)
    assert f"loss {bad:.4g}" in told or "loss nan" in told
    assert f"epoch {(at - 1) // 3}, step {(at - 1) % 3}, examples [" in told


@pytest.mark.case("C3")
def test_on_the_command_line_it_is_exit_code_3_and_the_run_can_be_gone_on_with(advcore, root, tiny, tmp_path):
    smaller = (*tiny, "data.train_size=80", "data.test_size=20", "training.epochs=3", "selection.warm_start=0.7")
    changes = [part for one in smaller for part in ("--set", one)]
    command = ["run", root / "experiments/trades_gradmatch.yaml", *changes, "--out"]
    assert advcore(*command, tmp_path / "undisturbed")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        breaking(patch, 5, float("nan"))  # 3 steps are a full epoch
        code, _, err = advcore(*command, tmp_path / "run")
    assert code == 3 and err.count("\n") == 1 and "loss nan" in err and "epoch 1, step 1, examples [" in err, err
    assert checkpoints.load_newest(tmp_path / "run")[0]["place"]["epoch"] == 1
    assert advcore(*command, tmp_path / "run", "--resume")[0] == 0
    weights = [tmp_path / name / "checkpoints/last.safetensors" for name in ("run", "undisturbed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.case("B8")
@pytest.mark.parametrize(
    "accuracies, best", [((0.3, float("nan"), 0.2), 0), ((float("nan"), 0.1, 0.4), 2), ((0.2, 0.3, float("nan")), 1)]
)
def test_nan_is_never_best(model, source, monkeypatch, accuracies, best):
    found = Scripted(*(Evaluation(clean=Accuracy(own, 16, (0.0, 1.0)), attacks=()) for own in accuracies))
    monkeypatch.setattr("advcore.training.judge.evaluate", found)
    kept = []
    listener = Listener(on_state=lambda name, state, entry: kept.append((name, entry["epoch"])))
    made = dataclasses.replace(TRAINER, attack=None, objective=Standard())
    trained = made.fit(model, source, source, seed=0, listener=listener)
    assert trained.best_epoch == best and ("best", best) in kept
    assert not [epoch for name, epoch in kept if name == "best" and accuracies[epoch] != accuracies[epoch]]


@pytest.mark.case("B8")
def test_the_best_state_outlives_the_rotation(model, source, tmp_path, monkeypatch):
    """The first epoch is the best; its weights are in the last state that is kept, eleven states later."""
    first = Scripted(0.9, 0.1)
    monkeypatch.setattr(
        "advcore.training.judge.evaluate",
        lambda *_, **__: Evaluation(clean=Accuracy(first(), 16, (0.0, 1.0)), attacks=()),
    )
    best = []
    listener = Listener(
        on_state=lambda name, state, entry: best.append(state) if name == "best" else None,
        on_checkpoint=lambda state: checkpoints.save(tmp_path, state, {}),
    )
    made = dataclasses.replace(TRAINER, attack=None, objective=Standard(), schedule=Schedule(epochs=12))
    made.fit(model, source, source, seed=0, listener=listener)
    assert checkpoints._list_numbers(tmp_path) == [11, 12] and len(best) == 1
    shutil.rmtree(checkpoints.locate_states(tmp_path) / "000012")
    state = checkpoints.load_newest(tmp_path)[0]
    assert state["best_epoch"] == 0 and all(torch.equal(value, best[0][name]) for name, value in state["best"].items())
