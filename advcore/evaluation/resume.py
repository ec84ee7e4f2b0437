"""Verdicts of an evaluation, batch by batch: how processes exchange them, and the file to resume from."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.source import Source, hash_content, hash_sample
from advcore.errors import CheckpointError
from advcore.evaluation.autoattack import AutoAttack
from advcore.files import load_npz, write_npz
from advcore.runtime.states import dump_value, is_plain
from advcore.settings import write_in_full


def count_passes(ledger: CostLedger) -> Tensor:
    """Return (3,) double: forward passes, backward passes and operations that the ledger has counted for evaluation."""
    counts = [*ledger.passes["evaluation"].values(), ledger.flops["evaluation"]]
    return torch.tensor(counts, dtype=torch.float64)


# What the evaluation of B examples gives, in this order.
#
# passes : (3,) double, forward and backward passes, and operations, that it took.
# verdicts : (B,) bool for each key: which examples are right at the clean image ("clean") and under each attack (its
# position: "0", "1", ...).
# examples : x_adv (B, C, H, W) for each attack by its position; empty where they were not asked for.
PieceResult = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


def concatenate(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the tensors of each key; parts have the same keys. Empty without parts."""
    return {key: torch.cat([part[key] for part in parts]) for key in next(iter(parts), {})}


class SavedVerdicts:
    """The verdicts so far, the passes that they took and the faults of gradients that were seen, in a file.

    The file also says which evaluation they belong to.

    Parameters
    ----------
    path : the file (.npz); None keeps nothing on disk.
    keys : "clean", then the position of each attack.
    identity : computes the hash of everything that the verdicts depend on; called only if there is a file.

    Its length is the number of examples that have a verdict. The first process alone reads and writes the file.
    Raises CheckpointError, in all processes, for a file that is damaged or belongs to another evaluation.
    """

    def __init__(self, path: Path | None, keys: Sequence[str], identity: Callable[[], str]) -> None:
        self._path = path if distributed.is_first() else None
        self.verdicts = {key: torch.zeros(0, dtype=torch.bool) for key in keys}
        self.passes = torch.zeros(3, dtype=torch.float64)
        self.faults = [""] * sum(key.isdigit() for key in keys)
        with distributed.fail_together():
            if self._path is not None:
                self._identity = identity()
                if self._path.exists():
                    self._load(self._path)
        self.share()

    def __len__(self) -> int:
        return len(self.verdicts["clean"])

    def book_passes(self, ledger: CostLedger) -> None:
        """Add the passes and operations that the verdicts so far took to a ledger."""
        forward, backward, flops = map(int, self.passes.tolist())
        ledger.passes["evaluation"]["forward"] += forward
        ledger.passes["evaluation"]["backward"] += backward
        ledger.flops["evaluation"] += flops

    def share(self) -> None:
        """Give all processes the verdicts of the first one, which is the one that reads and collects them."""
        self.verdicts = distributed.run_on_first(partial(dict, self.verdicts))
        self.faults = distributed.run_on_first(partial(list, self.faults))

    def add(self, pieces: Sequence[PieceResult], faults: Sequence[str | None]) -> None:
        """Append the verdicts of the next batch's pieces, and bring the file up to date.

        faults : of each attack's gradients, by its position; one that was noted once stays.
        """
        self.faults = [before or fault or "" for before, fault in zip(self.faults, faults, strict=True)]
        for passes, verdicts, _ in pieces:
            self.verdicts = {key: torch.cat([old, verdicts[key].cpu()]) for key, old in self.verdicts.items()}
            self.passes = self.passes + passes
        if self._path is not None:
            arrays = {key: verdict.numpy() for key, verdict in self.verdicts.items()}
            facts = {"spent": self.passes.numpy(), "faults": np.array(self.faults, dtype=str)}
            write_npz(self._path, {**arrays, **facts, "identity": np.array(self._identity)})

    def _load(self, path: Path) -> None:
        try:
            arrays = load_npz(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; remove it, or use another file") from None
        if str(arrays.get("identity")) != self._identity:
            raise CheckpointError(
                f"{path} holds the verdicts of another evaluation (model, data, attacks or seed); use another file"
            )
        keys = self.verdicts.keys()
        shapes = {arrays[key].shape for key in keys if key in arrays and arrays[key].dtype == bool}
        if not {*keys, "spent"} <= arrays.keys() or len(shapes) != 1 or arrays["spent"].shape not in ((2,), (3,)):
            raise CheckpointError(f"{path} is damaged: it does not hold the verdicts that its name promises")
        self.verdicts = {key: torch.from_numpy(arrays[key]) for key in keys}
        spent = torch.from_numpy(arrays["spent"])
        self.passes[: len(spent)] = spent  # older files do not count operations
        self.faults = arrays.get("faults", np.array(self.faults, dtype=str)).tolist()  # older files have none


def _format(name: str, value: object) -> bytes:
    """Return the bytes of a state dict's value."""
    if is_plain(value):
        return value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    return dump_value(name, value)


def hash_evaluation(
    model: nn.Module, source: Source, indices: Tensor, attacks: Iterable[Attack | AutoAttack], settings: tuple
) -> str:
    """Hash everything that the verdicts depend on: data, attacks, settings, weights and the indices of the examples.

    Of images that are not in memory, it reads 16 of those that are evaluated.
    """
    described = write_in_full(list(attacks)).replace(", examples=None", "")  # as before there was such a setting
    facts = f"({hash_content(source)!r}, {described}, {settings!r})"
    digest = hashlib.sha256(facts.encode())
    external = [getattr(attack, "external", None) for attack in attacks]
    for network in (model, *(network for network in external if network is not None)):
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode() + _format(name, value))
    digest.update(indices.cpu().numpy().tobytes())
    digest.update((hash_sample(source, indices) or "").encode())
    return digest.hexdigest()
