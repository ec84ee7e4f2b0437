"""Trackers: told of every epoch once, through stops and failures, and never felt by the run."""

import csv
import json
import random
import shutil
import sys

import numpy as np
import pytest
import torch
from kernels import plain_kernels
from sealed import update

from advcore import cli
from advcore.config.load import load
from advcore.errors import ConfigError
from advcore.run import checkpoints
from advcore.tracking import TRACKERS, metrics
from advcore.tracking.base import QUIET, Opening, Sink, flatten
from advcore.tracking.dispatch import Tracking

TIMES = {"seconds", "peak_memory", "resumes", "environment", "seal"}


@pytest.fixture(scope="module", autouse=True)
def kernels():
    """What is told of a run does not hang on how a convolution is computed."""
    with plain_kernels():
        yield


class Kept(Sink):
    """Keeps what it is told in a file that lives on, as a server would; draws random numbers, as packages do."""

    fails_at: int | None = None

    def __init__(self, opening: Opening):
        super().__init__(opening.epochs_logged, {"id": "a1"})
        opening.folder.mkdir(parents=True, exist_ok=True)
        self.file, self.opening = opening.folder / "told.jsonl", opening
        self._write(["open", opening.epochs_logged, opening.state])

    def _write(self, line: list) -> None:
        random.random(), np.random.rand(), torch.rand(1)
        with open(self.file, "a") as file:
            file.write(json.dumps(line) + "\n")

    def log(self, epoch, values):
        if epoch == self.fails_at:
            raise OSError("no route to the server")
        self._write(["log", epoch, values])

    def close(self, final):
        self._write(["close", final])


@pytest.fixture
def kept(monkeypatch):
    """TensorBoard's place in the table is taken by a tracker that needs nothing."""
    cls = TRACKERS["tensorboard"]
    monkeypatch.setattr(cls, "load", lambda self: None)
    monkeypatch.setattr(cls, "open", lambda self, opening: Kept(opening))
    return Kept


def command(root, tiny, *more: str) -> list[str]:
    changed = [
        *tiny, "training.epochs=6", "selection.period=2", "selection.warm_start=0.4", "checkpoint.kept=9",
        "evaluation.checks=false", "evaluation.examples=20", "data.train_size=100", *more,
    ]  # fmt: skip
    return ["run", str(root / "experiments/trades_gradmatch.yaml"), *(part for c in changed for part in ("--set", c))]


@pytest.fixture(scope="module")
def plain(root, tiny, tmp_path_factory):
    """A run that nobody tracks, with all its states."""
    out = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advcore", *command(root, tiny), "--out", str(out)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert leaving.value.code == 0
    return out


def record_of(folder, *without: str):
    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(entry) for key, entry in value.items() if key not in TIMES | set(without)}
        return [timeless(entry) for entry in value] if isinstance(value, list) else value

    return timeless(json.loads((folder / "record.json").read_text()))


def told(folder, kind="log"):
    lines = (folder / "tracking/tensorboard/told.jsonl").read_text().splitlines()
    return [json.loads(line)[1:] for line in lines if json.loads(line)[0] == kind]


def lines_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], table


TRACKED = "tracking=[{name: tensorboard}]"


def test_a_tracker_is_told_all_and_the_run_does_not_feel_it(advcore, root, tiny, plain, kept, tmp_path):
    assert advcore(*command(root, tiny, TRACKED), "--out", tmp_path / "run")[0] == 0
    assert record_of(tmp_path / "run", "tracking") == record_of(plain, "tracking")
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "run/checkpoints" / name).read_bytes() == (plain / "checkpoints" / name).read_bytes()
    record, epochs = record_of(plain), told(tmp_path / "run")
    assert [epoch for epoch, _ in epochs] == [0, 1, 2, 3, 4]
    assert {"loss", "lr", "examples", "seconds", "relative_cost", "probe/clean", "probe/robust"} <= set(epochs[0][1])
    assert "selection/gradient_error" not in epochs[0][1]
    for one in record["selections"]:
        values = dict(epochs[one["epoch"]][1])
        for name in ("gradient_error", "gradient_error_random", "effective_sample_size", "weight_sum", "k"):
            assert values[f"selection/{name}"] == one[name]
    assert epochs[-1][1]["relative_cost"] == record["relative_cost"]
    ((final,),) = told(tmp_path / "run", "close")
    assert final["final/best/linf_pgd"] == record["final"]["best"]["attacks"][0]["accuracy"]
    assert final["final/last/clean"] == record["final"]["last"]["clean"]["accuracy"]


def test_every_run_keeps_its_epochs_as_lines(plain):
    lines, table = lines_of(plain)
    record = json.loads((plain / "record.json").read_text())
    assert [line["loss"] for line in lines] == [entry["loss"] for entry in record["epochs"]]
    assert all(list(line) == list(metrics.COLUMNS) for line in (*lines, *table))
    assert [line["relative_cost"] for line in lines] == sorted(line["relative_cost"] for line in lines)
    assert [row["selection/k"] for row in table] == [str(line["selection/k"] or "") for line in lines]


@pytest.mark.case("A3")
@pytest.mark.parametrize("before", ["told more than was saved", "not tracked"])
def test_gone_on_with_no_epoch_is_told_twice_and_none_is_lost(advcore, root, tiny, plain, kept, tmp_path, before):
    """Killed after a state of 2 epochs; the tracker knows 3, or is new."""
    run = shutil.copytree(plain, tmp_path / "run")
    for number in checkpoints._list_numbers(run)[2:]:
        shutil.rmtree(checkpoints.locate_states(run) / f"{number:06d}")
    record = json.loads((run / "record.json").read_text())
    update(run / "record.json", finished=False, final={})
    count = {"told more than was saved": 3, "not tracked": 0}[before]
    if count:
        (tracking := Tracking({"tensorboard": TRACKERS["tensorboard"]()}, run, "x", {})).tell(
            metrics.build_rows(record["epochs"][:count], record["selections"], record["reference"])
        )
        assert tracking.events == []
    code, _, err = advcore(*command(root, tiny, TRACKED), "--out", run, "--resume")
    assert code == 0, err
    assert [epoch for epoch, _ in told(run)] == [0, 1, 2, 3, 4]
    assert told(run, "open")[-1] == [count, {"id": "a1"} if count else {}]
    assert record_of(run, "tracking") == record_of(plain, "tracking")
    lines, table = lines_of(run)
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4] and len(table) == 5
    resumed = json.loads((run / "record.json").read_text())["resumes"]
    assert [change.split(":")[0] for change in resumed[0]["changed"]] == ["tracking"]


def test_a_tracker_that_fails_costs_the_run_nothing(advcore, root, tiny, plain, kept, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(Kept, "fails_at", 2)
    code, _, err = advcore(*command(root, tiny, TRACKED), "--out", tmp_path / "run")
    assert code == 0, err
    (event,) = record_of(tmp_path / "run")["events"]
    assert (event["kind"], event["epoch"]) == ("tracking", 2)
    assert "tensorboard failed" in event["event"] and "no route" in event["event"]
    assert "no route" in caplog.text and [epoch for epoch, _ in told(tmp_path / "run")] == [0, 1]
    assert record_of(tmp_path / "run", "tracking", "events") == record_of(plain, "tracking", "events")
    weights = [folder / "checkpoints/last.safetensors" for folder in (tmp_path / "run", plain)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_a_tracker_cannot_open_with_is_an_event(kept, monkeypatch, tmp_path):
    def refuse(self, opening):
        raise RuntimeError("not logged in")

    (tmp_path / "tracking").mkdir()
    for content in ('{"told": 0, "kept": {"id": "../../x"}}', "junk", '{"told": 1}'):
        (tmp_path / "tracking/tensorboard.json").write_text(content)
        tracking = Tracking({"tensorboard": TRACKERS["tensorboard"]()}, tmp_path, "x", {})
        tracking.tell([])
        events: list = []
        tracking.report(events, 7)
        tracking.report(events, 8)
        assert [event["epoch"] for event in events] == [7] and not tracking.sinks
    assert not (tmp_path / "tracking/tensorboard").exists()
    (tmp_path / "tracking/tensorboard.json").unlink()
    monkeypatch.setattr(TRACKERS["tensorboard"], "open", refuse)
    assert "not logged in" in Tracking({"tensorboard": TRACKERS["tensorboard"]()}, tmp_path, "x", {}).events[0].text


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_one_line_before_anything_is_done(advcore, root, tiny, tmp_path, monkeypatch, name):
    for package in ("wandb", "mlflow", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    for key in QUIET:
        monkeypatch.setenv(key, "true")
    code, _, err = advcore(*command(root, tiny, f"tracking=[{{name: {name}}}]"), "--out", tmp_path / "run")
    assert code == 2 and len(err.strip().splitlines()) == 1 and name in err and "pip install" in err
    assert not (tmp_path / "run").exists()


def test_wrong_settings_are_told(root):
    def refused(text: str) -> str:
        with pytest.raises(ConfigError) as error:
            load(root / "experiments/trades_gradmatch.yaml", [f"tracking={text}"])
        return str(error.value)

    assert "tracking.1.name" in refused("[{name: wandb}, {name: wandb, project: x}]")
    assert "tracking.0.mode" in refused("[{name: wandb, mode: on}]")
    assert "tensorboard, wandb, mlflow" in refused("[{name: tensorbord}]")
    assert "tracking" in refused("{name: wandb}")
    assert load(root / "experiments/trades_gradmatch.yaml").tracking == []


def test_settings_are_flat_for_those_who_want_them_so():
    given = {"a": {"b": 1, "c": None}, "d": [{"e": 0.5}, []]}
    assert flatten(given) == {"a.b": 1, "a.c": None, "d.0.e": 0.5, "d.1": []}


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_each_epoch_once_also_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard: install the extra track")
    tracker = TRACKERS["tensorboard"]()

    def opened(count: int) -> Sink:
        return tracker.open(Opening(tmp_path, "x", {"seed": 0, "none": None, "list": []}, {}, count))

    sink = opened(0)
    for epoch in range(4):  # of the last, nobody could note that it was told
        sink.log(epoch, {"loss": float(epoch)})
    sink.close(None)
    sink = opened(3)
    for epoch in (3, 4):
        sink.log(epoch, {"loss": float(epoch)})
        sink.epochs_logged = epoch + 1
    sink.close({"final/last/clean": 0.5})
    assert scalars(tmp_path) == {"loss": [(e, float(e)) for e in range(5)], "final/last/clean": [(5, 0.5)]}


@pytest.mark.slow
def test_wandb_goes_on_with_the_same_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the package wandb: install the extra wandb")
    kept: dict = {}
    for count in (0, 2):
        sink = TRACKERS["wandb"]().open(Opening(tmp_path, "x", {"seed": 0}, kept, count))
        kept = sink.state
        sink.log(count, {"loss": 1.0})
        sink.close({"final/last/clean": 0.5} if count else None)
    (one, two) = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert one.name == two.name == f"run-{kept['id']}.wandb"


@pytest.mark.slow
def test_mlflow_holds_each_epoch_once_in_a_database_of_the_run(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs the package mlflow: install the extra mlflow")
    kept: dict = {}
    for count in (0, 2):
        opening = Opening(tmp_path, "x", {f"a{i}": i for i in range(150)}, kept, 0)
        sink = TRACKERS["mlflow"]().open(opening)
        assert sink.epochs_logged == count
        kept = sink.state
        for epoch in (count, count + 1):
            sink.log(epoch, {"loss": float(epoch), "probe/clean": 0.5})
            sink.epochs_logged = epoch + 1
        sink.close({"final/relative_cost": 0.5})
        sink.close({"final/relative_cost": 0.5})
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(kept["id"])
    assert len(run.data.params) == 150 and run.info.status == "FINISHED"
    assert [one.step for one in client.get_metric_history(kept["id"], "loss")] == [0, 1, 2, 3]
    assert [one.step for one in client.get_metric_history(kept["id"], "final/relative_cost")] == [2, 4]
