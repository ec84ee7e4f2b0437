"""Verdicts and adversarial examples of each image: kept, resumed, and worth what the number says."""

import pytest
import torch
from seeds import seeded
from torch import nn

from advcore.adversary import bind_attack
from advcore.attacks import LPA, ReColorAdv
from advcore.attacks.pgd import L1PGD, L2PGD, LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import CheckpointError, ConfigError
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.evaluate import evaluate
from advcore.evaluation.suites import SUITES

N = 50


def images():
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).eval()


def source():
    y = network()(images()).argmax(1)
    y[::10] = (y[::10] + 1) % 5
    return Resident(images(), y)


ATTACKS = (
    LinfPGD(eps=0.02, steps=3, restarts=2), L2PGD(eps=0.2, steps=3), LPA(eps=0.1, steps=3, rounds=2),
    ReColorAdv(eps=0.05, steps=3),
)  # fmt: skip


def test_accuracy_recomputed_from_the_kept_examples_is_equal_and_they_are_in_the_ball():
    model, data = network(), source()
    found = evaluate(model, data, ATTACKS, keep_examples=True, batch_size=16)
    for i, attack in enumerate(ATTACKS):
        x_adv = found.examples[str(i)]
        right = torch.cat([model(part).argmax(1) for part in x_adv.split(16)]) == data.labels()
        assert torch.equal(right, found.verdicts[str(i)])
        assert float(right.double().mean()) == found.attacks[i]["accuracy"] < found.clean.accuracy
        assert bind_attack(attack, model, CostLedger().count_passes).excess(images(), x_adv).max() <= 0.01 * attack.eps


def test_the_worst_case_is_over_all_attacks_example_by_example():
    found = evaluate(network(), source(), ATTACKS)
    all_right = torch.stack([found.verdicts[key] for key in ("clean", "0", "1", "2", "3")]).all(0)
    assert found.worst.accuracy == float(all_right.double().mean())
    assert found.worst.accuracy <= min(entry["accuracy"] for entry in found.attacks)
    assert found.as_dict()["worst"]["n"] == N
    assert evaluate(network(), source()).worst is None


class Stopped(Exception):
    pass


def stop_after(batches):
    def tell(done, total, seen=[]):  # noqa: B006 - a counter
        seen.append(done)
        if len(seen) == batches:
            seen.clear()
            raise Stopped

    return tell


def test_a_stopped_evaluation_goes_on_where_it_was(tmp_path):
    model, data, file = network(), source(), tmp_path / "verdicts.npz"
    ledgers = [CostLedger() for _ in range(3)]
    whole = evaluate(model, data, ATTACKS, batch_size=16, ledger=ledgers[0])
    with pytest.raises(Stopped):
        evaluate(model, data, ATTACKS, batch_size=16, state=file, on_chunk=stop_after(2))
    rest = evaluate(model, data, ATTACKS, batch_size=16, state=file, ledger=ledgers[1])
    assert rest.as_dict() == whole.as_dict()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    again = evaluate(model, data, ATTACKS, batch_size=16, state=file, ledger=ledgers[2], checks=False)
    assert again.as_dict() | {"flags": []} == whole.as_dict() | {"flags": []} and not calls
    looked = CostLedger()
    evaluate(model, data, ATTACKS, batch_size=16, state=file, ledger=looked)
    of_checks = looked.sum_units(without=()) - ledgers[2].sum_units(without=())
    assert ledgers[0].passes == ledgers[1].passes == looked.passes
    assert ledgers[0].sum_units(without=()) == ledgers[2].sum_units(without=()) + of_checks


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Verdicts of a whole evaluation."""
    path = tmp_path_factory.mktemp("whole") / "verdicts.npz"
    evaluate(network(), source(), ATTACKS, state=path)
    return path


@pytest.mark.parametrize("change", ["model", "seed", "attack", "data", "images", "indices"])
def test_verdicts_of_another_evaluation_are_refused(file, change):
    before = file.read_bytes()
    settings = {"seed": 1} if change == "seed" else {"indices": torch.arange(20)} if change == "indices" else {}
    attacks = (ATTACKS[0].with_settings(eps=0.03), *ATTACKS[1:]) if change == "attack" else ATTACKS
    data = Resident(images(), (source().labels() + 1) % 5) if change == "data" else source()
    data = Resident(1 - images(), source().labels()) if change == "images" else data
    with pytest.raises(CheckpointError, match="another evaluation"):
        evaluate(network(1 if change == "model" else 0), data, attacks, state=file, **settings)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "one, other",
    [
        (L1PGD(eps=1.0, steps=3), L1PGD(eps=1.0, steps=3, sparsity=0.5)),
        (ReColorAdv(eps=0.05, steps=3), ReColorAdv(eps=0.05, steps=3, resolution=4)),
        (LPA(eps=0.1, steps=2).by(network(1)), LPA(eps=0.1, steps=2).by(network(2))),
        (LPA(eps=0.1, steps=2), LPA(eps=0.1, steps=2, correct_only=True)),
    ],
)
def test_every_setting_of_an_attack_and_its_network_count(tmp_path, one, other):
    file = tmp_path / "verdicts.npz"
    evaluate(network(), source(), [one], state=file)
    evaluate(network(), source(), [one], state=file)
    with pytest.raises(CheckpointError, match="another evaluation"):
        evaluate(network(), source(), [other], state=file)


def test_a_stop_between_two_writes_loses_at_most_the_last_batch(tmp_path, monkeypatch):
    file, settings = tmp_path / "verdicts.npz", {"batch_size": 16, "state": tmp_path / "verdicts.npz"}
    with pytest.raises(Stopped):
        evaluate(network(), source(), ATTACKS[:1], **settings, on_chunk=stop_after(2))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        evaluate(network(), source(), ATTACKS[:1], **settings)
    monkeypatch.undo()
    whole = evaluate(network(), source(), ATTACKS[:1], batch_size=16)
    assert evaluate(network(), source(), ATTACKS[:1], **settings).as_dict() == whole.as_dict()


def test_examples_cannot_be_kept_of_batches_already_done(tmp_path):
    file = tmp_path / "verdicts.npz"
    evaluate(network(), source(), ATTACKS[:1], state=file)
    with pytest.raises(ConfigError, match="keep_examples needs all batches"):
        evaluate(network(), source(), ATTACKS[:1], state=file, keep_examples=True)


def test_suites_are_made_of_the_files_attacks():
    own = [LinfPGD(eps=0.1), L2PGD(eps=0.5), LinfPGD(eps=0.1, steps=50)]
    assert SUITES["seen"](own) == own
    assert [(one.norm, one.eps) for one in SUITES["autoattack"](own)] == [("linf", 0.1), ("l2", 0.5)]
    names = {type(one).__name__ for one in SUITES["unseen"](own)}
    assert names == {"AutoAttack", "StAdv", "ReColorAdv", "JPEGLinf", "PPGD", "LPA"}
    with pytest.raises(ConfigError, match="--suite must be"):
        SUITES["autoattack"]([ReColorAdv()])


@pytest.mark.slow
@pytest.mark.parametrize("norm, eps", [("linf", 0.02), ("l2", 0.2)])
def test_autoattack_is_at_least_as_strong_and_stays_in_its_ball(norm, eps):
    pytest.importorskip("pyautoattack", reason="extra eval")
    model, data, some = network(), source(), {"indices": torch.arange(5), "batch_size": 5}
    pgd = {"linf": LinfPGD, "l2": L2PGD}[norm](eps=eps, steps=20)
    found = evaluate(model, data, [pgd, AutoAttack(norm=norm, eps=eps)], keep_examples=True, **some)
    assert found.attacks[1]["accuracy"] <= found.attacks[0]["accuracy"] < found.clean.accuracy
    assert found.attacks[1]["package"].startswith("pyautoattack ")
    assert pgd.excess(images()[:5], found.examples["1"]).max() <= 1e-6
    again = evaluate(model, data, [pgd, AutoAttack(norm=norm, eps=eps)], **some)
    assert torch.equal(again.verdicts["1"], found.verdicts["1"])
    black = evaluate(model, data, [AutoAttack(norm=norm, eps=eps, version="square")], **some)
    assert black.attacks[0]["accuracy"] >= found.attacks[1]["accuracy"]


@pytest.mark.case("E6", "E5")
def test_autoattack_on_a_model_that_rounds_to_whole_numbers_runs_and_the_black_box_tells_on_it():
    pytest.importorskip("pyautoattack", reason="extra eval")
    model = network()
    model.register_forward_pre_hook(lambda module, args: ((args[0] * 255).to(torch.uint8) / 255,))
    attacks = [AutoAttack(eps=0.1, version=version) for version in ("apgd-ce", "square")]
    data = Resident(images()[:8], model(images()[:8]).argmax(1))
    blind, black = (found := evaluate(model, data, attacks, checks=True)).attacks
    assert blind["accuracy"] == 1 > black["accuracy"]
    assert any("no input gradient" in flag for flag in found.flags)
    assert any("the black box autoattack beats autoattack" in flag for flag in found.flags)


@pytest.mark.parametrize("settings", [{"eps": -1}, {"eps": 0.1, "norm": "l3"}, {"eps": 0.1, "version": "best"}])
def test_autoattack_refuses_what_cannot_be_meant(settings):
    with pytest.raises(ConfigError):
        AutoAttack(**settings)
    assert AutoAttack(eps=8.0, norm="linf").problem((3, 8, 8)) and not AutoAttack(eps=8.0, norm="l2").problem((3, 8, 8))
