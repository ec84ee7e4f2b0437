"""Files that would run code if anything unpickled them, and files that lie about what they hold."""

import builtins
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from advcore.files import MANIFEST
from advcore.files.content import hash_bytes
from advcore.files.pairs import write_pair
from advcore.files.sealed import compute_seal, format_json
from advcore.files.trees import SCHEMA


class Calls:
    """Calls `function` with `arguments` when it is unpickled."""

    def __init__(self, function: Callable, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def objects(canary: Path) -> dict[str, object]:
    """Objects, by name, that create the file `canary` when they are unpickled, each in another way."""
    code = f"open({str(canary)!r}, 'w')"
    inner = Calls(os.system, f"touch {canary}")
    buffer = io.BytesIO()
    torch.save(inner, buffer)
    return {
        "system": inner,
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "open": Calls(open, str(canary), "w"),
        "getattr": Calls(getattr, Calls(builtins.__import__, "os"), "path"),
        "storage bytes": Calls(torch.storage._load_from_bytes, buffer.getvalue()),
        "loads": Calls(pickle.loads, pickle.dumps(inner)),
        "in a state": {"state_dict": {"0.weight": torch.zeros(2), "0.bias": inner}},
        "beside a state": {"state_dict": {"0.weight": torch.zeros(2)}, "epoch": Calls(eval, code)},
        "deep": [{"a": ({"b": [inner]},)}],
    }


def contents(canary: Path) -> dict[str, bytes]:
    """What a file may hold: each object saved by pickle and by torch, in both of its formats, and in arrays."""
    found = {}
    for name, value in objects(canary).items():
        found[f"pickle of {name}"] = pickle.dumps(value, protocol=2)
        for kind, zipped in (("zip", True), ("stream", False)):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
            found[f"torch {kind} of {name}"] = buffer.getvalue()
    inner = objects(canary)["system"]
    for protocol in (0, 5):
        found[f"pickle protocol {protocol}"] = pickle.dumps(inner, protocol=protocol)
    for name, array in {
        "objects": np.array([inner], dtype=object),
        "fields": np.array([(1, inner)], dtype=[("a", "i4"), ("b", "O")]),
    }.items():
        npy, npz = io.BytesIO(), io.BytesIO()
        np.save(npy, array, allow_pickle=True)
        np.savez(npz, **{key: array for key in ("x_train", "indices", "identity", "clean")})
        found |= {f"npy of {name}": npy.getvalue(), f"npz of {name}": npz.getvalue()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member in ("indices.npy", "x_train", "archive/data.pkl", "data.pkl"):
            archive.writestr(member, pickle.dumps(inner))
    return found | {"zip of pickles": buffer.getvalue()}


def safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, whatever it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def _entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "longer than the file": safetensors({"w": _entry()}, bytes(8), length=10_000),
    "longer than memory": safetensors({"w": _entry()}, bytes(8), length=2**63),
    "shorter": safetensors({"w": _entry()}, bytes(8), length=3),
    "no header": b"",
    "no json": safetensors(b"{" * 100),
    "deep json": safetensors(b'{"a":' * 50_000),
    "a list": safetensors([1, 2]),
    "data beyond the end": safetensors({"w": _entry(shape=(200,), offsets=(0, 800))}, bytes(8)),
    "data before the start": safetensors({"w": _entry(offsets=(-8, 0))}, bytes(8)),
    "backwards": safetensors({"w": _entry(offsets=(8, 0))}, bytes(8)),
    "too few bytes": safetensors({"w": _entry(shape=(3,))}, bytes(8)),
    "too large a shape": safetensors({"w": _entry(shape=(2**40, 2**40))}, bytes(8)),
    "a negative shape": safetensors({"w": _entry(shape=(-2,))}, bytes(8)),
    "no numbers": safetensors({"w": _entry(shape=("a",), offsets=("b", "c"))}, bytes(8)),
    "no such type": safetensors({"w": _entry(dtype="O")}, bytes(8)),
    "a code for a type": safetensors({"w": _entry(dtype="os.system")}, bytes(8)),
    "shared bytes": safetensors({"w": _entry(), "v": _entry()}, bytes(8)),
    "a gap": safetensors({"w": _entry(offsets=(8, 16))}, bytes(16)),
    "bytes over": safetensors({"w": _entry()}, bytes(64)),
    "odd facts": safetensors({"__metadata__": {"a": [1]}, "w": _entry()}, bytes(8)),
}
"""safetensors files, by what their header has wrong."""


def described(path: Path, content: bytes, schema: str, facts: dict | None = None) -> Path:
    """`path` with the JSON beside it that vouches for this content: damage is not what it is refused for."""
    write_pair(path, content, schema, facts or {})
    return path


def folder(path: Path, contents: dict[str, bytes], **changes: object) -> Path:
    """A state's folder whose manifest vouches for its files; `changes` go into the manifest."""
    path.mkdir(parents=True)
    own = {}
    for name, content in contents.items():
        if "/" not in name:
            (path / name).write_bytes(content)
        own[name] = {"sha256": hash_bytes(content), "size": len(content)}
    facts = {"schema": SCHEMA, "files": own, "data": [], **changes}
    (path / MANIFEST).write_bytes(format_json({**facts, "seal": compute_seal(facts)}))
    return path
