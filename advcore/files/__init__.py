"""All files that advcore writes and reads: written whole or not at all, checked by hashes, and never unpickled.

A file is written under a temporary name in its own folder, synced, and renamed, so it exists whole or not at all. Files
with results carry a seal, a hash of all that they hold, which reading checks. Tensors are stored as safetensors and
arrays as npz, each with a sealed JSON next to it that holds the other file's sha256.

Writers raise OSError, whose `filename` is the path that was to be written. Readers raise CheckpointError.
"""

from advcore.files.arrays import load_arrays, load_npz, read_npz, save_arrays, write_npz
from advcore.files.content import check_inside, list_leftovers, read_bytes, write_bytes
from advcore.files.pairs import has_pair, settle, settle_all, try_write
from advcore.files.sealed import check_seal, parse_json, read_json, read_sealed, write_json, write_sealed
from advcore.files.tensors import load_tensors, load_weights, save_tensors
from advcore.files.trees import MANIFEST, check_folder, join_tree, load_folder, pack, save_folder, split_tree, unpack

__all__ = [
    "MANIFEST",
    "check_folder",
    "check_inside",
    "check_seal",
    "has_pair",
    "join_tree",
    "list_leftovers",
    "load_arrays",
    "load_folder",
    "load_npz",
    "load_tensors",
    "load_weights",
    "pack",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_npz",
    "read_sealed",
    "save_arrays",
    "save_folder",
    "save_tensors",
    "settle",
    "settle_all",
    "split_tree",
    "try_write",
    "unpack",
    "write_bytes",
    "write_json",
    "write_npz",
    "write_sealed",
]
