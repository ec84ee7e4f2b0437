"""What RobustBench is offered, and that nothing is claimed of what was not measured as it measures."""

import copy
import json

import pytest

from advcore.config.load import from_dict, override, resolve
from advcore.errors import ConfigError
from advcore.export.robustbench import EVALUATION, Board, Submission, _find_board, prepare_submission
from advcore.files import load_tensors, save_tensors, write_sealed
from advcore.reporting.record import RunRecord

RUN = {
    "name": "Doe2026Less",
    "data": {"name": "cifar10", "path": "/home/me/data"},
    "model": {"name": "small_cnn", "width": 4},
    "objective": {"name": "pgd"},
    "attack": {"name": "linf_pgd", "eps": 8 / 255, "step_size": 2 / 255, "steps": 7},
    "training": {"epochs": 1, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.1}},
    "evaluation": {"attacks": [{"name": "autoattack", "eps": 8 / 255}]},
}
PARTS = {"apgd-ce": 0.5612, "apgd-t": 0.5371, "fab-t": 0.5371, "square": 0.5342}


def attacked(n: int = 10_000, **changes) -> dict:
    """AutoAttack's entry in a record."""
    facts = {"name": "autoattack", "norm": "linf", "eps": 8 / 255, "version": "standard", "seed": 0, "n": n}
    return facts | {"parts": [*PARTS], "package": "x 1", "accuracy": 0.5342, "after": PARTS} | changes


def results(*attacks: dict, flags: tuple[str, ...] = (), n: int = 10_000) -> dict:
    return {"clean": {"accuracy": 0.8534, "n": n}, "attacks": [*attacks], "flags": [*flags]}


def faults_of(config: dict, measured: dict, norm: str = "Linf") -> list[str]:
    return [*Board(config["data"]["name"].replace("parquet", "cifar10"), norm).list_faults(config, measured)]


@pytest.fixture
def config() -> dict:
    return resolve(from_dict(copy.deepcopy(RUN)))


def make_run(folder, config: dict, final: dict) -> RunRecord:
    """A run's folder with one checkpoint and a record."""
    save_tensors(folder / "checkpoints/best.safetensors", {}, {"epoch": 0, "version": "0"})
    record = RunRecord(
        name=config["name"], config=config, environment={}, plan="", reference={}, finished=True, best_epoch=0,
        epochs=[{"epoch": 0}], final={"best": final},
    )  # fmt: skip
    record.save(folder / "record.json")
    return record


def test_what_was_measured_as_the_leaderboard_measures_is_claimed_in_its_form(config, tmp_path):
    """The entry has the keys of RobustBench's README, in its order, with its texts for numbers."""
    make_run(tmp_path, config, results(attacked()))
    submission = prepare_submission(tmp_path)
    assert submission.faults == () and submission.board == Board("cifar10", "Linf")
    submission.write(tmp_path, "me/model")
    file = tmp_path / "robustbench/model_info/cifar10/Linf/Doe2026Less.json"
    assert [*json.loads(file.read_text()).items()] == [
        ("link", None), ("name", None), ("authors", None), ("additional_data", False), ("number_forward_passes", 1),
        ("dataset", "cifar10"), ("venue", None), ("architecture", "small_cnn"), ("eps", "8/255"),
        ("clean_acc", "85.34"), ("reported", None), ("autoattack_acc", "53.42"),
    ]  # fmt: skip
    issue = (tmp_path / "robustbench/issue.md").read_text()
    assert issue.startswith("[New Model] Doe2026Less\n")
    for line in (
        "- **Threat Model**: Linf", "- **eps**: 8/255", "- **Clean accuracy**: 85.34", "- **Robust accuracy**: 53.42",
        "- **Additional data**: false", "- **Checkpoint and code**: https://huggingface.co/me/model",
        "initial accuracy: 85.34%", "robust accuracy after APGD-CE: 56.12%", "robust accuracy after SQUARE: 53.42%",
        "robust accuracy: 53.42%",
    ):  # fmt: skip
        assert line in issue.splitlines(), line
    assert "/home" not in issue


@pytest.mark.parametrize(
    ("changes", "measured", "fault"),
    [
        ([], results(attacked(4000)), "not evaluated on the full test set: 4,000 of 10,000 images by AutoAttack"),
        ([], results(attacked(version="rand")), "0 of 10,000 images by AutoAttack standard, Linf 8/255"),
        ([], results(attacked(eps=7 / 255)), "0 of 10,000 images"),
        ([], results(attacked(norm="l2")), "0 of 10,000 images"),
        ([], {}, "0 of 10,000 images"),
        (["data={name: parquet, path: cifar10}"], results(attacked()), "evaluated on copies of cifar10 (data.name: p"),
        (["evaluation.checks=false"], results(attacked()), "evaluated without the checks that detect a random"),
        ([], results(attacked(), flags=("randomised: other logits",)), "flagged randomised: other logits"),
    ],
)  # fmt: skip
def test_nothing_else_is_claimed(config, tmp_path, changes, measured, fault):
    config = override(config, changes)
    (line,) = faults_of(config, measured)
    assert line.startswith(fault) or fault in line
    submission = Submission(Board("cifar10", "Linf"), make_run(tmp_path, config, measured), measured, (line,))
    entry, issue = submission.describe(), submission.write_issue()
    assert entry["clean_acc"] is None and entry["autoattack_acc"] is None
    assert line in issue and "Clean accuracy**: not claimed" in issue and "85.34" not in issue and "53.42" not in issue


def test_a_harmless_flag_is_no_reason_and_stands_in_the_log(config, tmp_path):
    make_run(tmp_path, config, results(attacked(), flags=("weak: few steps",)))
    submission = prepare_submission(tmp_path)
    assert not submission.faults and "\nflag: weak: few steps\n" in submission.write_issue()


def test_what_advcore_cannot_know_is_left_open(config, tmp_path):
    record = make_run(tmp_path, config, results(attacked()))
    record.config["model"]["weights"], record.plugins = "net.safetensors", [{"path": "net.py"}]
    entry = Submission(Board("cifar10", "Linf"), record, results(attacked()), ()).describe()
    assert entry["additional_data"] is None and entry["number_forward_passes"] is None


def test_a_pool_is_additional_data(config, tmp_path):
    record = make_run(tmp_path, config, results(attacked()))
    record.config["data"]["pool"] = {"path": "1m.npz", "share": 0.7}
    submission = Submission(Board("cifar10", "Linf"), record, results(attacked()), ())
    assert submission.describe()["additional_data"] is True and "true" in submission.write_issue()


@pytest.mark.parametrize(
    ("changes", "measured", "board"),
    [
        ([], {}, ("cifar10", "Linf")),
        (["data={name: parquet, path: data/cifar10}"], {}, ("cifar10", "Linf")),
        (["data={name: image_folder, path: data/imagenet}"], {}, ("imagenet", "Linf")),
        (["attack=null"], results(attacked(norm="l2", eps=0.5)), ("cifar10", "L2")),
        ([], results(attacked(norm="l2", eps=0.5)), ("cifar10", "L2")),
        ([], results(attacked(norm="l2", eps=0.5), attacked()), ("cifar10", "Linf")),
    ],
)
def test_the_leaderboard_is_that_of_the_data_and_the_norm(config, changes, measured, board):
    config = override(config, changes)
    record = RunRecord(name="x", config=config, environment={}, plan="", reference={})
    assert _find_board(record, config, measured) == Board(*board)


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        (["data={name: svhn}"], "got 'svhn Linf'"),
        (["attack=null"], "got 'cifar10'"),
        (["data={name: cifar100}", "attack={name: l2_pgd, eps: 0.5}"], "got 'cifar100 L2'"),
    ],
)
def test_without_a_leaderboard_it_is_a_line(config, tmp_path, changes, got):
    make_run(tmp_path, override(config, changes), {})
    with pytest.raises(ConfigError, match="--robustbench must be for data and attacks of a leaderboard") as caught:
        prepare_submission(tmp_path)
    assert got in str(caught.value)


@pytest.mark.parametrize("data", ["{name: cifar10, test_size: 9}", "{name: parquet, path: x/cifar10}"])
def test_the_settings_that_are_named_measure_what_can_be_claimed(config, data):
    """The evaluation that the command line suggests is one that is claimed."""
    config = override(config, [f"data={data}", "evaluation={attacks: [], examples: 9, checks: false}"])
    board = Board("cifar10", "Linf")
    changed = override(config, board.list_overrides(config["data"]))
    (attack,) = from_dict(changed).evaluation.attacks
    measured = results(attacked(eps=attack.eps, norm=attack.norm, version=attack.version))
    assert [*board.list_faults(changed, measured)] == [] and changed["evaluation"]["examples"] is None
    assert changed["data"].get("test_size") is None
    assert Board("imagenet", "Linf").list_overrides(config["data"]) == []


def test_an_evaluation_is_claimed_of_the_model_that_it_is_of(config, tmp_path):
    """It may be of other data than those of the run, but of no other weights and of no other network."""
    trained_on_copies = override(config, ["data={name: parquet, path: cifar10}"])
    make_run(tmp_path, trained_on_copies, results(n=100))
    sha256 = load_tensors(tmp_path / "checkpoints/best.safetensors")[1]["sha256"]
    facts = {"sha256": sha256, "config": config} | results(attacked())
    write_sealed(tmp_path / "e.json", facts, EVALUATION)
    assert (
        prepare_submission(tmp_path).faults and not prepare_submission(tmp_path, evaluation=tmp_path / "e.json").faults
    )
    other = override(config, ["model.width=8"])
    for wrong in ({"sha256": "0"}, {"config": other}):
        write_sealed(tmp_path / "e.json", facts | wrong, EVALUATION)
        with pytest.raises(ConfigError, match="--evaluation must be of the exported checkpoint"):
            prepare_submission(tmp_path, evaluation=tmp_path / "e.json")
