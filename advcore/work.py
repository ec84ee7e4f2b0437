"""An amount of work: the number of single-example passes, by the kind of pass."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from operator import add, attrgetter

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
# How many passes a kind counts as, where that is not one.
_UNITS = {"double": 2, "left_out": -1}


@dataclass(frozen=True, slots=True)
class Work:
    """Numbers of single-example passes by kind: a backward pass costs more, the more gradients it computes.

    forward : forward passes.
    to_images : backward passes to the images, of an attack. to_weights : to the weights that train, of an update.
    to_both : to the images and these weights. to_head : to the weights of the linear head alone.
    double : backward passes to the weights through a backward pass to the images, each of which counts as two.
    left_out : backward passes among `to_weights` whose example has no loss. They are computed with those of the batch,
        as BatchNorm's statistics tie its examples together, and do not count as passes, as Mendonça et al. 2023 count.
    other_forward, other_to_images : passes of another network, by which an attack measures distances.
    """

    forward: int = 0
    to_images: int = 0
    to_weights: int = 0
    to_both: int = 0
    to_head: int = 0
    double: int = 0
    left_out: int = 0
    other_forward: int = 0
    other_to_images: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*map(add, _list_counts(self), _list_counts(other)))

    def __mul__(self, times: int) -> "Work":
        return Work(*(times * count for count in _list_counts(self)))

    __rmul__ = __mul__

    def train_head(self) -> "Work":
        """Return the same passes where the weights of the head alone train."""
        return replace(self, to_weights=0, to_head=self.to_head + self.to_weights)

    @property
    def units(self) -> int:
        """Return the number of passes, forward and backward."""
        return sum(self.list_kinds(_UNITS).values())

    def list_kinds(self, prices: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return the number of passes of each kind of which there are some, or what these cost.

        prices : of one pass, by kind; 1 where a kind has none.
        """
        counts = zip(KINDS, _list_counts(self), strict=True)
        return {kind: count * (prices or {}).get(kind, 1) for kind, count in counts if count}


KINDS = tuple(field.name for field in fields(Work))
_list_counts = attrgetter(*KINDS)

NO_WORK = Work()


def format_operations(flops: float) -> str:
    """Write a number of floating-point operations in three digits, such as "3.24 TFLOP"."""
    _, _, power = f"{flops:.2e}".partition("e")  # after rounding: 999,600 is 1 MFLOP
    exponent = min(max(int(power), 0) // 3, len(_PREFIXES) - 1)
    return f"{flops / 1000**exponent:.3g} {_PREFIXES[exponent]}FLOP"
