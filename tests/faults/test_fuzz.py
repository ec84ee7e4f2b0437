"""Run files changed at random: `advcore check` leaves with 0 or 2, in lines, and trains nothing."""

import collections
import subprocess
import sys

import pytest
from mutations import mutations

COUNT, SEED = 500, 20260


@pytest.fixture(scope="module")
def texts(root) -> list[str]:
    """The valid run files; those that are quick to check three times."""
    digits = [path.read_text() for path in sorted(root.glob("experiments/*.yaml"))]
    others = [path.read_text() for path in sorted(root.glob("experiments/*/*.yaml"))]
    assert len(digits) >= 30 and others
    return [*digits * 3, *others]


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A folder without data, so that only embedded ones are read."""
    monkeypatch.delenv("ADVCORE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def untrained(monkeypatch):
    """A test that fails if anything is trained."""
    fits = []
    monkeypatch.setattr("advcore.training.trainer.Trainer.fit", lambda *_, **__: fits.append(1))
    yield
    assert not fits


def in_order(code: int, err: str) -> None:
    lines = [line for line in err.splitlines() if not line.startswith("WARNING: ")]
    assert code in (0, 2)
    assert (code == 2) == bool(lines) and all(line.startswith("advcore: ") for line in lines), err
    for ours in ("Traceback", "pydantic", "object at 0x", "TypeError", "AttributeError", "KeyError", "IndexError"):
        assert ours not in err


@pytest.mark.slow
@pytest.mark.case("G1", "G2", "G3")
def test_run_files_changed_at_random_are_good_or_refused(advcore, texts, nowhere, untrained):
    codes = collections.Counter()
    for i, content in enumerate(mutations(texts, COUNT, SEED)):
        (nowhere / "f.yaml").write_bytes(content)
        try:
            code, _, err = advcore("check", nowhere / "f.yaml")
            in_order(code, err)
        except BaseException as error:
            raise AssertionError(f"mutation {i}: {content[:3000]!r}: {type(error).__name__}: {error}") from error
        codes[code] += 1
    assert sorted(nowhere.iterdir()) == [nowhere / "f.yaml"]
    assert codes[0] >= 25 and codes[2] >= 300, codes


def through_a_process(texts, folder, some: slice) -> None:
    for content in list(mutations(texts, COUNT, SEED))[some]:
        (folder / "f.yaml").write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-m", "advcore", "check", folder / "f.yaml"], capture_output=True, text=True, timeout=60
        )
        in_order(done.returncode, done.stderr)


@pytest.mark.slow
@pytest.mark.case("G1", "G2", "G3")
def test_one_of_them_through_the_command_line(texts, nowhere):
    through_a_process(texts, nowhere, slice(7, 8))


@pytest.mark.slow
@pytest.mark.case("G1", "G2", "G3")
def test_ten_of_them_through_the_command_line(texts, nowhere):
    through_a_process(texts, nowhere, slice(3, None, 50))


OVERRIDES = (
    "", "=", "a", ".=1", "a.=1", ".a=1", "a..b=1", "attack=", "attack.eps=", "attack.eps.x=1", "attack.0=1",
    "evaluation.attacks.²=1", "evaluation.attacks.-1=1", "evaluation.attacks.0.0=1", "evaluation.attacks.x=1",
    f"evaluation.attacks.{'9' * 5000}=1", "evaluation.attacks.0=[", "attack=&a [*a]", "attack=*a", "attack={<<: 1}",
    "attack=!!python/name:os.system", "attack=!!binary x", "attack=\0", "attack=\ud800", "attack=\x1b", "\n=1", "a=\n",
    "seed=1e999", "seed=.nan", "name=", "name=null", "=name=x", "selection.solver=null", "training=[]", "data=3",
    "attack=" + "[" * 3000, "attack=" + "9" * 5000, f"{'a.' * 500}b=1", "__class__=1", "attack.__init__=1",
)  # fmt: skip


@pytest.mark.case("G1", "G2", "G3")
def test_overrides_that_cannot_be_meant_are_refused(advcore, root, nowhere, untrained):
    for override in OVERRIDES:
        code, _, err = advcore("check", root / "experiments/linf_gradmatch.yaml", "--set", override)
        in_order(code, err)
        assert code == 2, override
