"""AutoAttack on fewer images than the other attacks: which images, and what all attacks leave right of them."""

import json
from dataclasses import replace

import pytest
import torch
from evaluation.test_evaluate import attack, network, source
from reporting.test_reporting import record

from advcore.data.split import subsample
from advcore.errors import ConfigError
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.evaluate import evaluate
from advcore.evaluation.intervals import wilson
from advcore.evaluation.resume import hash_evaluation
from advcore.evaluation.shared import choose_seen
from advcore.reporting import verdicts
from advcore.reporting.suite import Results, build_table, list_raw_rows
from advcore.reporting.tables import compare_methods, list_accuracy_rows


@pytest.fixture
def square() -> AutoAttack:
    """The black box with 20 queries, on 16 images."""
    pytest.importorskip("pyautoattack", reason="extra eval")
    return AutoAttack(eps=0.05, version="apgd-ce", examples=16)


def test_each_attack_is_measured_on_its_images_and_all_on_those_they_share(square):
    """The slow twin: an evaluation of the shared images alone, and of all images without AutoAttack."""
    data, pgd = source(), attack("linf_pgd", start="clean")
    both = evaluate(network(), data, [pgd, square])
    alone = evaluate(network(), data, [pgd])
    chosen = subsample(data.labels(), 16, 0, "evaluation")
    few = evaluate(network(), data, [pgd, replace(square, examples=None)], indices=chosen)
    assert [entry["n"] for entry in both.attacks] == [60, 16]
    assert both.clean == alone.clean and both.attacks[0] == alone.attacks[0]
    assert both.shared.clean == few.clean and both.worst == few.worst and both.worst.n == 16
    assert [entry.accuracy for entry in both.shared.attacks] == [entry["accuracy"] for entry in few.attacks]
    assert both.attacks[1]["accuracy"] == few.attacks[1]["accuracy"] < both.clean.accuracy
    assert few.shared is None and "shared" not in few.as_dict()
    results = json.loads(json.dumps(both.as_dict()))
    assert [entry["n"] for entry in results["shared"]["attacks"]] == [16, 16]


@pytest.mark.slow
def test_the_images_are_the_same_for_every_batch_size_seed_and_order(square):
    data = source()
    first = evaluate(network(), data, [square])
    assert first.attacks[0]["n"] == 16
    for settings in ({"batch_size": 7}, {"seed": 5}):
        again = evaluate(network(), data, [square], **settings)
        assert again.attacks[0]["n"] == 16 and again.shared.clean == first.shared.clean
    reverse = choose_seen([square], data, torch.arange(60).flip(0))
    assert int(reverse.limited[0].sum()) == 16


def test_what_an_attack_does_not_see_costs_it_nothing_and_stays_as_it_was(square):
    data = source()
    all_seen = evaluate(network(), data, [replace(square, examples=60)])
    whole = evaluate(network(), data, [replace(square, examples=None)])
    assert all_seen.attacks == whole.attacks and all_seen.worst == whole.worst
    some = evaluate(network(), data, [square], keep_examples=True)
    seen = torch.zeros(60, dtype=torch.bool)
    seen[subsample(data.labels(), 16, 0, "evaluation")] = True
    assert torch.equal(some.verdicts["0"][~seen], some.verdicts["clean"][~seen])
    (images,) = (images for _, images, _ in data.batches([torch.arange(60)]))
    assert torch.equal(some.examples["0"][~seen], images[~seen].to(some.examples["0"]))


def test_parts_are_measured_on_the_images_seen_and_smaller_numbers_lie_in_larger_ones():
    few, more = AutoAttack(eps=0.1, examples=8), AutoAttack(eps=0.1, examples=24)
    seen = choose_seen([attack("linf_pgd"), few, more], source(), torch.arange(60))
    right = torch.arange(60) % 2 == 0
    assert seen.measure("1.square", right) == wilson(int(right[seen.limited[1]].sum()), 8)
    assert seen.measure("0", right) == seen.measure("clean", right) == wilson(30, 60)
    assert torch.equal(seen.find_shared(right), seen.limited[1] & seen.limited[2])
    assert int(seen.find_shared(right).sum()) == 8


def test_more_images_than_there_are_is_refused_before_anything_is_attacked():
    with pytest.raises(ConfigError) as caught:
        evaluate(network(), source(), [attack("linf_pgd"), AutoAttack(eps=0.1, examples=61)])
    expected = "attacks.1.examples must be at most 60, as many images as are evaluated, got 61"
    assert str(caught.value) == expected
    with pytest.raises(ConfigError, match="^examples must be a whole number of at least 1, got 0"):
        AutoAttack(eps=0.1, examples=0)


def test_without_a_limit_verdicts_of_before_are_read():
    """The identity of an evaluation with AutoAttack, as it was before there was the setting."""
    known = (network(), source(), torch.arange(60))
    hashes = [hash_evaluation(*known, [AutoAttack(eps=0.1, examples=count)], (0,)) for count in (None, 8, 9)]
    assert len(set(hashes)) == 3


def with_shared(all_images: float, shared: float, auto: float):
    """A record of PGD on 100 images and of AutoAttack on 20 of them."""
    result = record(all_images)
    entry = {"n": 20, "interval": [0.1, 0.9]}
    evaluation = result.final["last"]
    pgd = evaluation["attacks"][0]
    attacked = {"name": "autoattack", "norm": "linf", "eps": 0.1, "version": "standard", "restarts": 1}
    final = evaluation | {
        "attacks": [pgd, attacked | entry | {"accuracy": auto}],
        "worst": entry | {"accuracy": auto},
        "shared": {
            "clean": entry | {"accuracy": 0.95},
            "attacks": [entry | {"accuracy": shared}, entry | {"accuracy": auto}],
        },
    }
    result.final = {"last": final, "best": final}
    return result


def test_tables_set_pgd_beside_autoattack_on_the_same_images():
    header, rows = compare_methods({"a": [with_shared(0.9, 0.85, 0.8), with_shared(0.9, 0.75, 0.7)]})
    titles = ["linf 0.1, PGD-50 x 3", "linf 0.1, PGD-50 x 3, the same 20 images"]
    titles += ["linf 0.1, AutoAttack standard, 20 images", "all of these, 20 images"]
    assert list(header[3:7]) == [f"robust, % ({title})" for title in titles]
    assert rows[0][3:7] == ("90.0 ± 0.0", "80.0 ± 7.1", "75.0 ± 7.1", "75.0 ± 7.1")
    names = [row[0] for row in list_accuracy_rows("last", with_shared(0.9, 0.85, 0.8).final["last"])]
    assert [f"last: robust, % ({title})" for title in titles] == names[1:]
    results = Results(reference=None)
    results.add("a", 0, with_shared(0.9, 0.85, 0.8))
    notes = " ".join(build_table(results, "t", "last").notes)
    assert "100 test images, 20 of them under linf 0.1, AutoAttack standard." in notes
    _, note = verdicts.tabulate(results.groups(), "a")
    shared = "Robust accuracy is over the 20 images that all attacks saw: the share that withstands them all."
    assert note.startswith(shared)
    columns, (row,) = list_raw_rows(results, "s", None)
    assert row[columns.index("last robust 1 (images that all attacks saw)")] == "0.85"
