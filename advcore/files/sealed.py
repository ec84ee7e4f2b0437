"""JSON files, plain and sealed. A seal is a hash of all that a file holds; reading checks it."""

import json
from pathlib import Path
from typing import NoReturn

from advcore.errors import CheckpointError
from advcore.files.content import hash_bytes, read_bytes, write_bytes


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON. Raises ValueError for NaN and infinity, which other readers of JSON do not know."""
    write_bytes(path, format_json(value))


def format_json(value: object) -> bytes:
    """Return the bytes of a JSON file, one value per line. Raises ValueError for NaN and infinity."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> object:
    """Read a JSON file. Raises CheckpointError if it is missing or is not JSON, as with NaN or infinity."""
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes, path: Path) -> object:
    """Parse the content of the file `path`. Raises CheckpointError as `read_json` does."""
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is not JSON")


def write_sealed(path: Path, facts: dict, schema: str) -> None:
    """Write JSON of `facts` with the name of their `schema` and, last, a seal. Raises as `write_json` does."""
    write_bytes(path, format_sealed({**facts, "schema": schema}))


def format_sealed(facts: dict) -> bytes:
    """Return the bytes of a JSON file of `facts` and, last, their seal. Raises as `format_json` does."""
    # Dumped without indentation, which would take most of the time: it is only read back.
    facts_read_back = json.loads(json.dumps(facts, allow_nan=False))
    return format_json({**facts, "seal": compute_seal(facts_read_back)})


def compute_seal(facts: dict) -> str:
    """Return the sha256 of facts, whatever the order of their keys.

    facts : as JSON gives them back, which may differ from what was written: keys are text, and tuples are lists.
    """
    return hash_bytes(json.dumps(facts, sort_keys=True).encode())


def read_sealed(path: Path, schema: str, *, unsealed: str | None = None) -> dict:
    """Read what `write_sealed` wrote, without the seal. Raises CheckpointError if any byte differs from it.

    unsealed : the schema of files from before there were seals ("" where they named none), which are not checked.
    """
    content = read_bytes(path)
    return check_seal(content, parse_json(content, path), path, schema, unsealed)


def check_seal(content: bytes, facts: object, path: Path, schema: str, unsealed: str | None) -> dict:
    """Return the facts of a file, without the seal, which is removed from `facts`. Raises as `read_sealed` does.

    content : of the file `path`. facts : what `parse_json` makes of it. schema, unsealed : as in `read_sealed`.
    """
    if isinstance(facts, dict) and "seal" not in facts and facts.get("schema", "") == unsealed:
        return facts
    if not isinstance(facts, dict) or facts.get("schema") != schema:
        raise CheckpointError(f"{path} does not describe {schema}")
    seal = facts.pop("seal", None)
    # The bytes are compared too: 1E-5 has the value, and so the seal, of the 1e-5 that was written.
    if seal != compute_seal(facts) or content != format_json({**facts, "seal": seal}):
        raise CheckpointError(f"{path} is damaged: its facts are not the ones that were saved")
    return facts
