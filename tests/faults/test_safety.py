"""No file and no setting runs code, leads out of a run's folder, or needs the network."""

import ast
import configparser
import gzip
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import hostile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from places import PLACES_WITH_NAMES, RUN, choices_at
from sealed import update
from torch import nn

from advcore import Coreset, evaluate
from advcore.config.load import from_dict, load
from advcore.data import DATASETS
from advcore.errors import CheckpointError, ConfigError, UnsafeFileError, UserError
from advcore.files import load_arrays, load_folder, load_tensors, load_weights, read_json, save_folder
from advcore.reporting.record import RunRecord
from advcore.run import checkpoints
from advcore.run.weights import load_state
from advcore.selection.scores import Scores

# ---- D1: files that would run code ----


def _weights(path: Path, suffix: str, content: bytes) -> None:
    path = path.with_suffix(suffix)
    path.write_bytes(content)
    load_weights(path)


def _checkpoint(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    load_state(nn.Sequential(nn.Linear(2, 2)), path)


def _verdicts(path: Path, content: bytes) -> None:
    path = path.with_suffix(".npz")
    path.write_bytes(content)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    evaluate(model, torch.utils.data.TensorDataset(torch.rand(3, 1, 2, 2), torch.zeros(3).long()), state=path)


def _text(read):
    def door(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        read(path)

    return door


def _described(suffix: str, schema: str, read):
    return lambda path, content: read(hostile.described(path.with_suffix(suffix), content, schema))


def _state(name: str):
    def door(path: Path, content: bytes) -> None:
        whole = {"tensors.safetensors": hostile.safetensors({}), "values.json": b"{}"}
        hostile.folder(path, whole | {name: content})
        load_folder(path)

    return door


DOORS = {
    **{
        f"weights{suffix}": lambda path, content, suffix=suffix: _weights(path, suffix, content)
        for suffix in (".pt", ".pth", ".bin", ".safetensors", ".npz", ".json", "")
    },
    "checkpoint": _checkpoint,
    "own checkpoint": _described(".safetensors", "advcore-tensors-1", load_tensors),
    "own weights": _described(".safetensors", "advcore-tensors-1", load_weights),
    "own arrays": _described(".npz", "advcore-arrays-1", load_arrays),
    "coreset": _described(".npz", "advcore-arrays-1", Coreset.load),
    "scores": _described(".npz", "advcore-arrays-1", Scores.load),
    "verdicts": _verdicts,
    "state's tensors": _state("tensors.safetensors"),
    "state's values": _state("values.json"),
    "json": _text(read_json),
    "record": _text(RunRecord.load),
    "facts": lambda path, content: _text(lambda path: Coreset.load(path.with_suffix(".npz")))(
        path.with_suffix(".json"), content
    ),
}
"""Everything that reads a file which someone else may have written: (path, content) -> reads it."""


@pytest.mark.case("D1")
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_nothing_runs_at_any_door(tmp_path, door):
    for i, (name, content) in enumerate(hostile.contents(canary := tmp_path / "canary").items()):
        with pytest.raises((UnsafeFileError, CheckpointError)) as caught:
            door(tmp_path / f"file{i}", content)
        assert not canary.exists(), name
        assert str(tmp_path / f"file{i}") in str(caught.value) and "\n" not in str(caught.value), name


@pytest.mark.case("D1")
def test_what_would_run_is_called_unsafe(tmp_path):
    """Where a file of the right kind holds an object, the message says that it can run code."""
    for name, content in hostile.contents(tmp_path / "canary").items():
        wanted = {"torch": "weights.pt", "npz": "own arrays"}.get(name.split()[0])
        if wanted:
            with pytest.raises(UnsafeFileError, match="can run code"):
                DOORS[wanted](tmp_path / name.replace(" ", "-"), content)


@pytest.mark.case("D1")
def test_the_hostile_files_are_hostile(tmp_path):
    """Unpickled, each creates its canary: what the tests above refuse is not harmless."""
    import pickle

    for name, value in hostile.objects(tmp_path / "canary").items():
        pickle.loads(pickle.dumps(value))
        assert name == "getattr" or (tmp_path / "canary").exists(), name
        (tmp_path / "canary").unlink(missing_ok=True)


@pytest.mark.case("D1")
@pytest.mark.parametrize("door", ["weights.safetensors", "own checkpoint", "own weights", "state's tensors"])
def test_a_header_that_lies_is_refused(tmp_path, door):
    for i, (name, content) in enumerate(hostile.LIES.items()):
        with pytest.raises(CheckpointError) as caught:
            DOORS[door](tmp_path / f"file{i}", content)
        assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 1000, name


@pytest.mark.case("D1")
@pytest.mark.parametrize(
    "state",
    [
        {1: torch.zeros(2)},
        {"w": torch.zeros(2, 2).to_sparse()},
        {"w": torch.zeros(2, device="meta")},
        {"w": [torch.zeros(2)]},
        {},
        [torch.zeros(2)],
        {"a": {"w": torch.zeros(2)}, "b": {"w": torch.zeros(2)}},
    ],
    ids=["number", "sparse", "meta", "list", "empty", "no mapping", "two"],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError):
        load_state(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pt")


def _npz(path: Path, content: bytes) -> dict:
    (path / "d.npz").write_bytes(content)
    return {"name": "npz", "path": str(path / "d.npz")}


def _parquet_file(path: Path, content: bytes) -> dict:
    for part in ("train", "test"):
        (path / f"{part}-0.parquet").write_bytes(content)
    return {"name": "parquet", "path": str(path)}


def _parquet_image(path: Path, content: bytes) -> dict:
    for part in ("train", "test"):
        table = pa.table({"image": [{"bytes": content, "path": None}] * 3, "label": [0, 1, 1]})
        pq.write_table(table, path / f"{part}-0.parquet")
    return {"name": "parquet", "path": str(path)}


def _parquet_type(path: Path, content: bytes) -> dict:
    """A column of an extension type whose definition is a pickle, as pyarrow before 14.0.1 read it."""
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": content}
    fields = [pa.field("image", pa.binary(), metadata=kind), pa.field("label", pa.int64())]
    for part in ("train", "test"):
        table = pa.table([pa.array([b"x"] * 3), pa.array([0, 1, 1])], schema=pa.schema(fields))
        pq.write_table(table, path / f"{part}-0.parquet")
    return {"name": "parquet", "path": str(path)}


def _parquet_names(path: Path, content: bytes) -> dict:
    """Class names are JSON in the schema's metadata."""
    for part in ("train", "test"):
        table = pa.table({"image": [{"bytes": b"x", "path": None}] * 3, "label": [0, 1, 1]})
        pq.write_table(table.replace_schema_metadata({b"huggingface": content}), path / f"{part}-0.parquet")
    return {"name": "parquet", "path": str(path)}


def _folder(path: Path, content: bytes) -> dict:
    for part in ("train", "val"):
        (path / part / "a").mkdir(parents=True)
        (path / part / "a" / "0.png").write_bytes(content)
    return {"name": "image_folder", "path": str(path)}


def _mnist_legacy(path: Path, content: bytes) -> dict:
    for name in ("training.pt", "test.pt"):
        (path / "MNIST/processed").mkdir(parents=True, exist_ok=True)
        (path / "MNIST/processed" / name).write_bytes(content)
    return {"name": "mnist", "path": str(path)}


def _mnist_raw(path: Path, content: bytes) -> dict:
    (path / "MNIST/raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (path / f"MNIST/raw/{part}-{kind}-ubyte").write_bytes(content)
            (path / f"MNIST/raw/{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return {"name": "mnist", "path": str(path)}


def _cifar(name: str, folder: str, files: tuple[str, ...]):
    def write(path: Path, content: bytes) -> dict:
        (path / folder).mkdir()
        for file in files:
            (path / folder / file).write_bytes(content)
        return {"name": name, "path": str(path)}

    return write


def _svhn(path: Path, content: bytes) -> dict:
    for part in ("train", "test"):
        (path / f"{part}_32x32.mat").write_bytes(content)
    return {"name": "svhn", "path": str(path)}


_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
DATA = {
    "npz": _npz,
    "parquet file": _parquet_file,
    "parquet image": _parquet_image,
    "parquet type": _parquet_type,
    "parquet names": _parquet_names,
    "image folder": _folder,
    "mnist legacy": _mnist_legacy,
    "mnist raw": _mnist_raw,
    "cifar10": _cifar("cifar10", "cifar-10-batches-py", _BATCHES),
    "cifar100": _cifar("cifar100", "cifar-100-python", ("train", "test", "meta")),
    "svhn": _svhn,
}
"""Every kind of data: (folder, content) -> settings that read it."""


@pytest.mark.case("D1")
def test_every_kind_of_data_has_its_hostile_files(tmp_path):
    tried = {
        write(tmp_path / str(i), b"x")["name"]
        for i, write in enumerate(DATA.values())
        if not (tmp_path / str(i)).mkdir()
    }
    assert tried | {"digits", "fashion_mnist"} == set(DATASETS)  # embedded; MNIST's reader


@pytest.mark.case("D1")
@pytest.mark.parametrize("write", DATA.values(), ids=DATA)
def test_nothing_runs_when_data_are_read(tmp_path, write):
    for i, (name, content) in enumerate(hostile.contents(canary := tmp_path / "canary").items()):
        (tmp_path / str(i)).mkdir()
        settings = write(tmp_path / str(i), content)
        with pytest.raises(UserError) as caught:
            DATASETS[settings.pop("name")](**settings).load(torch.device("cpu"))
        assert not canary.exists() and "\n" not in str(caught.value), name


@pytest.mark.case("D1")
def test_postscript_by_the_name_of_a_photograph_reaches_no_interpreter(tmp_path, monkeypatch):
    """PIL goes by the first bytes, and hands PostScript to Ghostscript."""
    import subprocess

    def started(*arguments, **_):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    for i, write in enumerate((_folder, _parquet_image)):
        (tmp_path / str(i)).mkdir()
        settings = write(tmp_path / str(i), eps)
        with pytest.raises(UserError, match="cannot be decoded"):
            DATASETS[settings.pop("name")](**settings).load(torch.device("cpu"))


# ---- D2: the source, the versions, the network ----

NEVER = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "os.system", "os.popen", "pty.spawn",
    "importlib.import_module", "importlib.__import__", "runpy.run_path", "runpy.run_module", "code.interact",
    "torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.package.PackageImporter",
    "torch.storage._load_from_bytes", "torch.serialization.add_safe_globals", "numpy.lib.format.read_array",
    "pandas.read_pickle", "joblib.load", "asyncio.create_subprocess_shell", "subprocess.getoutput",
    "subprocess.getstatusoutput", "importlib.util.module_from_spec", "importlib.util.spec_from_loader",
    "importlib.util.spec_from_file_location", "importlib.abc.SourceLoader", "importlib.machinery.SourceFileLoader",
}  # fmt: skip
"""Names that are not even mentioned."""
NEVER_FROM = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle")
STARTS = re.compile(r"os\.(exec|spawn|posix_spawn|fork)\w*")
BUILDS_FROM_YAML = re.compile(r"yaml\.(\w*[Ll]oad\w*|compose\w*|constructor|resolver|cyaml)(\..*)?")
"""What PyYAML builds objects with, safe or not: our reader needs its events alone."""
FROM_A_TABLE = (
    "advcore/__init__.py",
    "advcore/deprecation.py",
    "advcore/evaluation/autoattack.py",
    "advcore/run/doctor.py",
    "benchmarks/measure/solvers.py",
)
"""These import a module by a name that stands in a literal of their own; they read no settings."""
OF_THE_OWNER = {
    "advcore/register/plugins.py": {
        "importlib.abc.SourceLoader", "importlib.util.module_from_spec", "importlib.util.spec_from_loader",
    },
}  # fmt: skip
"""These run a file that the command line names (--plugin), and nothing else."""
SAFE = {"torch.load": "weights_only=True", "numpy.load": "allow_pickle=False"}
"""Calls that need this argument, written out."""
LOOKED_AT = ("shell", "allow_pickle", "weights_only")
"""Arguments whose values tell."""


def findings(source: str) -> list[str]:
    """What a source holds that could run code from a file or a setting: by its syntax tree, whatever it calls it."""
    nodes, names, found = list(ast.walk(ast.parse(source))), {}, []
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}  # fmt: skip
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [f"imports {module}" for module in modules if module.split(".")[0] in NEVER_FROM or module in NEVER
                  or BUILDS_FROM_YAML.fullmatch(module)]  # fmt: skip

    def full(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    for node in nodes:
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = full(node)
            if (
                name in NEVER
                or name.split(".")[0] in NEVER_FROM
                or any(pattern.fullmatch(name) for pattern in (STARTS, BUILDS_FROM_YAML))
            ):
                found.append(name)
        if isinstance(node, ast.Call):
            given = {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords if word.arg in LOOKED_AT}
            needed = SAFE.get(full(node.func))
            found += [f"{full(node.func)} without {needed}"] if needed and needed not in given else []
            found += [word for word in given if word.startswith(("shell=", "allow_pickle=T", "weights_only=F"))]
            if full(node.func) == "getattr" and names.get(getattr(node.args[0], "id", ""), "").split(".")[0] in (
                "os", "builtins", "subprocess", "importlib", "sys",
            ):  # fmt: skip
                found.append(ast.unparse(node))
    return found


@pytest.mark.case("D2")
@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f)", "from torch import load as l\nl(f)",
        "import torch as t\nt.load(f, weights_only=False)",
        "import torch\ntorch.load(f, weights_only=flag)", "import pickle", "from pickle import loads as read",
        "import numpy as np\nnp.load(f)", "import numpy as np\nnp.load(f, allow_pickle=True)",
        "from numpy import load\nload(f, mmap_mode='r')", "import yaml\nyaml.load(t, Loader=yaml.Loader)",
        "import yaml\nyaml.load(t)", "import yaml\nyaml.safe_load(t)", "from yaml import unsafe_load",
        "from yaml.constructor import SafeConstructor", "from yaml import SafeLoader", "import yaml as y\ny.compose(t)",
        "eval('1')", "run = eval", "exec(t)",
        "__import__(name)", "import os\nos.system('x')", "from os import popen as p\np('x')",
        "import os\nos.execv(a, b)",
        "import subprocess\nsubprocess.run(c, shell=True)", "import importlib\nimportlib.import_module(config.name)",
        "from importlib import import_module", "import os\ngetattr(os, name)()",
        "import torch.hub\ntorch.hub.load(a, b)",
        "import importlib.util as u\nu.module_from_spec(s)", "from importlib.util import spec_from_file_location as s",
        "import builtins\nbuiltins.eval(t)", "compile(t, 'f', 'exec')",
    ],
)  # fmt: skip
def test_the_scan_finds_what_it_is_for(source):
    assert findings(source)


@pytest.mark.case("D2")
def test_no_source_could_run_code_from_a_file_or_a_setting(root):
    files = [*root.glob("advcore/**/*.py"), *root.glob("benchmarks/**/*.py")]
    assert len(files) > 80
    found = {str(path.relative_to(root)): findings(path.read_text()) for path in files}
    for path in FROM_A_TABLE:
        assert set(found.pop(path)) == {"importlib.import_module"} and "import yaml" not in (root / path).read_text()
    for path, names in OF_THE_OWNER.items():
        assert set(found.pop(path)) == names
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.case("D2")
def test_plug_ins_are_loaded_by_the_command_line_alone(root):
    """The other place is a worker of a cluster, which gets the paths that the command line of its suite was given."""
    callers = {
        str(path.relative_to(root))
        for path in root.glob("advcore/**/*.py")
        if re.search(r"^\s+load_plugins\(", path.read_text(), re.MULTILINE)
    }
    assert callers == {"advcore/cli/arguments.py", "advcore/suite/engines.py"}


@pytest.mark.case("D2")
def test_tests_unpickle_nothing_but_to_show_that_it_would_run(root):
    for path in root.glob("tests/**/*.py"):
        if path.parent.name != "faults":
            found = [one for one in findings(path.read_text()) if "without" in one or "pickle" in one or "yaml" in one]
            assert not found, path


@pytest.mark.case("D2")
def test_the_torch_that_is_asked_for_and_the_one_that_is_here_are_mended(root):
    """weights_only=True could be got around before 2.6 (CVE-2025-32434) and before 2.10 (CVE-2026-24747)."""
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    (line,) = [line for line in setup["options"]["install_requires"].split("\n") if line.startswith("torch>")]
    asked, here = (tuple(map(int, re.findall(r"\d+", text)[:2])) for text in (line, torch.__version__))
    assert asked >= (2, 10) and here >= (2, 10)


@pytest.mark.case("D2")
def test_a_run_and_its_evaluation_need_no_network(advcore, root, tiny, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked for the network")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    sets = [
        part
        for change in (*tiny, "training.epochs=2", "data.train_size=80", "data.test_size=20")
        for part in ("--set", change)
    ]
    for name in ("trades_gradmatch", "linf_craig"):
        code, _, err = advcore("run", root / f"experiments/{name}.yaml", *sets, "--out", tmp_path / name)
        assert code == 0, err
    assert advcore("evaluate", tmp_path / name)[0] == 0


# ---- D3: code as names ----

CODE = ("os.system", "builtins.eval", "advcore.attacks.LinfPGD", "torch.nn:Linear", "this", "antigravity.x",
        "__import__('os').system('x')", "lambda: 0", "../linf_pgd", "/etc/passwd", "file.py:Class", "{{ x }}", "$(ls)",
        "timm.models.resnet", "LinfPGD", "linf_pgd\n", " linf_pgd", "",
        "plugin:Net", "plugin:os.system", "my_net.py:Net")  # fmt: skip


@pytest.mark.case("D3")
@pytest.mark.parametrize("place", PLACES_WITH_NAMES, ids=str)
def test_code_as_a_name_lists_the_known_names_and_imports_nothing(place):
    known = [name.partition(":")[0] for name in choices_at(place)]
    for code in CODE:
        if code.partition(":")[0] in known:
            continue
        before = set(sys.modules)
        run = json.loads(json.dumps(RUN))
        *above, last = place.split(".")
        here = run
        for key in above:
            here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
        here[int(last) if isinstance(here, list) else last] = {"name": code}
        with pytest.raises(ConfigError) as caught:
            from_dict(run)
        (line,) = caught.value.lines
        assert line.startswith(f"{place}.name must be one of {', '.join(known)}, got {code!r}"), line
        assert set(sys.modules) == before


@pytest.mark.case("D3")
@pytest.mark.parametrize(
    "tag",
    ["python/object/apply:os.system [touch CANARY]", "python/object/new:os.system [touch CANARY]",
     "python/name:os.system ''", "python/module:antigravity ''", "python/object:os.system {}", "python/tuple [1]",
     "python/object/apply:eval [\"open('CANARY', 'w')\"]", "python/bytes x", "python/none", "python/complex 1j"],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", ["name: !!{}", "attack: !!{}", "attack: {{name: !!{}}}", "!!{}", "a: [b, !!{}]", "!!{}: a"]
)
def test_a_tag_of_yaml_builds_nothing(tmp_path, place, tag):
    canary, before = tmp_path / "canary", set(sys.modules)
    (tmp_path / "f.yaml").write_text(place.format(tag.replace("CANARY", str(canary))))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "f.yaml")
    assert "\n" not in str(caught.value) and str(tmp_path / "f.yaml") in str(caught.value)
    assert not canary.exists() and set(sys.modules) == before


@pytest.mark.case("D3")
def test_an_architecture_by_address_is_refused_and_fetches_nothing(advcore, root, monkeypatch):
    pytest.importorskip("timm", reason="needs the package timm")

    def refuse(*_, **__):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    for name in (
        "hf_hub:timm/resnet18",
        "hf-hub:x/y",
        "local-dir:/tmp",
        "os.system",
        "../resnet18",
        "resnet18.no_tag",
        "resnet18./tmp/net.pt",
    ):
        for library in ("timm", "torchvision"):
            file = root / "experiments/linf_full.yaml"
            code, _, err = advcore("check", file, "--set", f"model={{name: '{library}:{name}'}}")
            assert code == 2 and "model.name must be" in err and err.count("\n") == 1, err


# ---- D5: out of the run's folder ----


@pytest.mark.case("D5")
@pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", ".", "a/b", "a\\b", "a/../../b", "", "~", ".a", "-a", "a\n",
                                  "a b", "ａ", "a" * 101, "a\x1b[0m", "%2e%2e", "CON:"])  # fmt: skip
def test_the_name_of_a_run_is_the_name_of_a_folder(name):
    with pytest.raises(ConfigError) as caught:
        from_dict(RUN | {"name": name})
    (line,) = caught.value.lines
    assert line.startswith("name must be letters, digits, '.', '-' and '_', got ")


@pytest.mark.case("D5")
def test_a_name_that_leads_elsewhere_writes_nothing(advcore, root, tiny, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sets = [part for change in (*tiny, "name=../../x") for part in ("--set", change)]
    code, _, err = advcore("run", root / "experiments/linf_full.yaml", *sets)
    assert code == 2 and "'../../x'" in err and [*tmp_path.rglob("*")] == [tmp_path / "here"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, root, tiny) -> Path:
    """A small run."""
    from advcore.run.prepare import prepare
    from advcore.run.run import run

    folder = tmp_path_factory.mktemp("finished") / "run"
    config = load(root / "experiments/linf_craig.yaml", [*tiny, "training.epochs=2", "evaluation.checks=false"])
    run(prepare(config), folder)
    return folder


LINKS = ("record.json", "checkpoints", "coresets", "states", "states/0*", "states/0*/manifest.json",
         "checkpoints/last.safetensors", "checkpoints/last.json", "coresets/epoch-*.npz", ".lock")  # fmt: skip


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.case("D5")
@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
def test_a_link_out_of_the_runs_folder_is_refused_and_nothing_beyond_it_is_touched(
    advcore, root, tiny, finished, tmp_path, name, absolute
):
    run, beyond = tmp_path / "run", tmp_path / "beyond"
    shutil.copytree(finished, run)
    shutil.copytree(finished, beyond)
    entry = sorted(run.glob(name))[-1]
    name = str(entry.relative_to(run))
    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    up = "../" * len(Path(name).parts)
    entry.symlink_to(beyond / name if absolute else f"{up}beyond/{name}")
    before = _bytes(beyond)
    sets = [part for change in (*tiny, "training.epochs=2", "evaluation.checks=false") for part in ("--set", change)]
    commands = [
        ("run", root / "experiments/linf_craig.yaml", *sets, "--out", run, how) for how in ("--resume", "--overwrite")
    ]
    commands += [("evaluate", run)] if name.startswith(("record", "checkpoints")) else []
    for command in commands:
        code, _, err = advcore(*command)
        assert code == 2 and str(entry.name) in err and "must stay in its folder" in err and err.count("\n") == 1, err
        assert entry.is_symlink() and _bytes(beyond) == before


@pytest.mark.case("D5")
def test_links_that_stay_inside_and_a_run_folder_that_is_a_link_are_the_users_own(advcore, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    best = tmp_path / "run/checkpoints/best.safetensors"
    best.unlink()
    best.symlink_to("last.safetensors")
    (tmp_path / "run/checkpoints/best.json").write_bytes((tmp_path / "run/checkpoints/last.json").read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert advcore("evaluate", tmp_path / "link", "--checkpoint", "best")[0] == 0


@pytest.mark.case("D5")
def test_a_link_in_a_circle_is_refused(advcore, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/record.json").unlink()
    (tmp_path / "run/record.json").symlink_to("record.json")
    code, _, err = advcore("evaluate", tmp_path / "run")
    assert code == 2 and "record.json" in err and "Traceback" not in err


@pytest.mark.case("D5")
@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "tensors.safetensors/../x"])
def test_a_manifest_names_no_file_elsewhere(tmp_path, name):
    whole = {"tensors.safetensors": hostile.safetensors({}), "values.json": b"{}"}
    (tmp_path / "outside").write_bytes(b"{}")
    hostile.folder(tmp_path / "good", whole)
    assert load_folder(tmp_path / "good")[0] == {}
    for i, files in enumerate(
        (whole | {name: b"{}"}, {"tensors.safetensors": whole["tensors.safetensors"], name: b"{}"})
    ):
        hostile.folder(tmp_path / f"bad{i}", files)
        with pytest.raises(CheckpointError, match="manifest.json is damaged"):
            load_folder(tmp_path / f"bad{i}")


@pytest.mark.case("D5")
@pytest.mark.parametrize("files", [[], None, "x", {"tensors.safetensors": 1, "values.json": 2},
                                   {"tensors.safetensors": {}, "values.json": {}}])  # fmt: skip
def test_a_manifest_that_is_none_is_refused(tmp_path, files):
    hostile.folder(tmp_path / "s", {"tensors.safetensors": b"", "values.json": b"{}"}, files=files)
    with pytest.raises(CheckpointError):
        load_folder(tmp_path / "s")


@pytest.mark.case("D5")
def test_only_numbered_folders_are_states(tmp_path):
    for name in ("000001", "1", "٣", "²", "0000001", "000002x", "..1", "-00001", "abc"):
        save_folder(tmp_path / "states" / name, {}, {"data": name})
    assert checkpoints._list_numbers(tmp_path) == [1]
    assert checkpoints.load_newest(tmp_path)[1]["data"] == "000001"


@pytest.mark.case("D5", "D1")
@pytest.mark.parametrize(
    "changes",
    [{"config": []}, {"config": "x"}, {"epochs": {}}, {"epochs": [1]}, {"final": None}, {"seconds": "x"}, {"name": 3},
     {"finished": "yes"}, {"best_epoch": "x"}, {"other": 1}, {"config": {"name": "../../x"}}, {"ledger": [1]}],
)  # fmt: skip
def test_a_record_that_is_none_is_one_line(advcore, finished, tmp_path, changes):
    shutil.copytree(finished, tmp_path / "run")
    record = json.loads((tmp_path / "run/record.json").read_text())
    if isinstance(changes.get("config"), dict):
        changes = {"config": record["config"] | changes["config"]}
    update(tmp_path / "run/record.json", **changes)
    code, _, err = advcore("evaluate", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.case("D5")
@pytest.mark.parametrize("text", ['{"a": ' * 5000, "[" * 100_000, "1" + "0" * 5000, '"\\ud800"', "NaN", "\0"])
def test_json_that_is_a_trap_is_one_line(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        RunRecord.load(tmp_path / "record.json")
    assert "\n" not in str(caught.value)


@pytest.mark.case("D1")
def test_arrays_that_are_no_coreset_are_refused(tmp_path):
    good = {"indices": np.arange(3), "weights": np.ones(3, np.float32)}
    facts = {"num_examples": 9, "fingerprint": "x", "solver": "s", "partition": "p", "seed": 0, "budget": 0.3,
             "population": None, "epoch": 0, "quality": {}, "cost": {}, "info": [], "events": []}  # fmt: skip

    def read(arrays: dict, **changes) -> Coreset:
        from advcore.files import save_arrays

        save_arrays(tmp_path / "c.npz", arrays, facts | changes)
        return Coreset.load(tmp_path / "c.npz")

    assert len(read(good)) == 3
    for bad in ({"indices": np.arange(3) - 1}, {"indices": np.arange(3) + 8}, {"indices": np.zeros(3, int)},
                {"indices": np.arange(3.0)}, {"indices": np.array(1)}, {"indices": np.array(["a", "b", "c"])},
                {"weights": np.full(3, np.nan)}, {"weights": np.ones(2)}, {"solver": np.ones(3)},
                {"seed": np.ones(1)}):  # fmt: skip
        with pytest.raises(UserError):
            read(good | bad)
    for bad in ({"num_examples": "9"}, {"info": 3}, {"events": None}):
        with pytest.raises(UserError):
            read(good, **bad)


@pytest.mark.case("D1", "D5")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_hostile_files_at_the_command_line_are_one_line(advcore, root, tiny, tmp_path, suffix):
    canary, path = tmp_path / "canary", tmp_path / f"file{suffix}"
    path.write_bytes(hostile.contents(canary)["torch zip of system"])
    sets, file = [part for change in tiny for part in ("--set", change)], root / "experiments/linf_craig.yaml"
    scores = f"selection.solver={{name: easycore, scores: {path}}}"
    network = f"attack={{name: fast_lpa, eps: 0.3, network: {tmp_path}}}"
    (tmp_path / "record.json").write_bytes(path.read_bytes())
    for command in (
        ("evaluate", file, "--checkpoint", path, *sets),
        ("select", file, "--checkpoint", path, *sets, "--out", tmp_path / "c.npz"),
        ("check", file, *sets, "--set", scores),
        ("check", file, *sets[:4], "--set", network),
        ("check", path),
        ("evaluate", tmp_path),
    ):
        code, _, err = advcore(*command)
        assert code == 2 and err.count("\n") == 1 and err.startswith("advcore: ") and str(tmp_path) in err, (
            command,
            err,
        )
        assert not canary.exists() and not (tmp_path / "c.npz").exists()
