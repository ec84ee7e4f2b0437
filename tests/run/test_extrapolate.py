"""advcore score --extrapolate: scores of a pool from those of the training set, in one file after another."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor

from advcore.config.load import load
from advcore.data.base import Data
from advcore.errors import DataError
from advcore.models.head import find_head, tap_features
from advcore.run import weights
from advcore.run.prepare import prepare
from advcore.selection.scores import Scores

TINY = ["data.train_size=80", "data.test_size=20", "model.width=4", "attack.steps=1", "training.batch_size=32"]
TINY += ["training.epochs=1", "evaluation.checks=false", "evaluation.attacks.0.steps=1"]


def options(changes):
    return [part for change in changes for part in ("--set", change)]


@pytest.fixture
def pool(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "pool.npz", image=images, label=np.arange(40) % 10)
    return tmp_path / "pool.npz"


def compute_features(model, data: Data, source) -> torch.Tensor:
    _, x, _ = next(source.batches([torch.arange(len(source))]))
    model.eval()
    with torch.no_grad(), tap_features(find_head(model, x[:2])) as tap:
        model(x)
        return tap.features.double()


def test_scores_of_the_training_set_are_extrapolated_to_the_pool_and_read_back(advcore, root, pool, tmp_path):
    file = root / "experiments/linf_full.yaml"
    known, out, run = tmp_path / "known.npz", tmp_path / "pool_scores.npz", tmp_path / "run"
    code, _, err = advcore("score", file, *options(TINY), "--score", "el2n", "--out", known)
    assert code == 0, err
    code, _, err = advcore("run", file, *options(TINY), "--out", run)
    assert code == 0, err
    checkpoint = run / "checkpoints/last.safetensors"
    beside = [*TINY, f"data.pool.path={pool}", "data.pool.share=0.5"]
    wanted = ["--extrapolate", known, "--checkpoint", checkpoint, "--neighbours", 5]
    code, said, err = advcore("score", file, *options(beside), *wanted, "--out", out)
    assert code == 0, err
    assert "scores of the pool" in said and "neighbours" in said

    of_pool, of_known = Scores.load(out), Scores.load(known)
    assert (of_pool.score, of_pool.neighbours, of_pool.extrapolated_from) == ("el2n", 5, of_known.sha256)
    assert of_pool.passes == of_known.passes + 72 + 40 and of_known.neighbours == 0
    prepared = prepare(load(file, beside))
    weights.load_state(prepared.model, checkpoint)
    data = prepared.data
    rows = of_pool.rows_of(str(out), "el2n", data.train.pool)
    features, queries = (
        compute_features(prepared.model, data, source) for source in (data.train.real, data.train.pool)
    )
    place = {int(index): i for i, index in enumerate(of_known.indices)}
    scores = of_known.values[[place[int(index)] for index in data.part]]
    twin = KNeighborsRegressor(n_neighbors=5, algorithm="brute").fit(features, scores).predict(queries)
    assert rows.matrix[:, 0].tolist() == pytest.approx(twin.tolist(), abs=1e-6)
    with pytest.raises(DataError, match="another data set"):
        of_pool.rows_of(str(out), "el2n", data.train.real)


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["--checkpoint", "x.pt"], "--checkpoint must be left out without --extrapolate, got 'x.pt'"),
        (["--neighbours", 3], "--neighbours must be left out without --extrapolate, got 3"),
        (["--extrapolate", "s.npz"], "--checkpoint must be set with --extrapolate, got None"),
        (
            ["--extrapolate", "s.npz", "--checkpoint", "x.pt", "--score", "el2n"],
            "--score must be left out with --extr",
        ),
        (["--extrapolate", "s.npz", "--checkpoint", "x.pt"], "data.pool must be set with --extrapolate, got None"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(advcore, root, arguments, problem):
    code, _, err = advcore("score", root / "experiments/linf_full.yaml", *arguments)
    assert code == 2 and problem in err and err.count("\n") == 1


def test_files_that_are_not_there_and_too_many_neighbours_are_a_line(advcore, root, pool, tmp_path):
    file = [root / "experiments/linf_full.yaml", *options([*TINY, f"data.pool.path={pool}"])]
    code, _, err = advcore("score", *file, "--extrapolate", tmp_path / "none.npz", "--checkpoint", "x.pt")
    assert code == 2 and "none.npz is missing; create it with `advcore score`" in err.replace("\n", " ")
    known = tmp_path / "known.npz"
    assert advcore("score", *file, "--score", "el2n", "--out", known)[0] == 0
    code, _, err = advcore("score", *file, "--extrapolate", known, "--checkpoint", tmp_path / "x.pt")
    assert code == 2 and "x.pt" in err and err.count("\n") == 1
