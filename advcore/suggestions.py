"""What a misspelt name probably means."""

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

ALIKE = 0.65  # least ratio of difflib at which a word is offered; below it, words that share some letters would be
SURELY_ALIKE = 0.9  # the same where only an obvious misspelling is to be offered
_ADVICE = re.compile(r"[^\w:].*", re.DOTALL)  # what follows the known word in an alias's target
NO_ALIASES: Mapping[str, str] = MappingProxyType({})


def suggest_nearest(
    value: object,
    known: Iterable[str],
    aliases: Mapping[str, str] = NO_ALIASES,
    *,
    alike: float = ALIKE,
    place: str = "",
) -> str:
    """Offer the known word that `value` probably means, as a question; "" where none is likely.

    Case, hyphens, underscores and spaces do not count. A word that the field uses for another goes before one that is
    only spelt similarly.

    Parameters
    ----------
    aliases : from what the field calls it, in small letters and digits alone, to the known word and the advice that
        goes with it: {"fgsm": "linf_pgd with steps: 1"}. One whose known word is not in `known` does not count.
    alike : how similarly a word must be spelt: the least ratio of difflib, in [0, 1].
    place : the setting where the known words belong, if that is another one.
    """
    words = list(known)
    wanted = simplify_name(str(value))
    by_spelling = _map_spellings(tuple(words))
    by_use = {alias: target for alias, target in aliases.items() if is_known(target, words)}
    suggestion = (
        by_spelling.get(wanted)
        or by_use.get(wanted)
        or _find_closest(wanted, by_use, SURELY_ALIKE)
        or _find_closest(wanted, by_spelling, alike)
    )
    if not suggestion:
        return ""
    name = suggestion
    if suggestion not in words:  # the target of an alias, and its advice
        name = _ADVICE.sub("", suggestion)
    advice = suggestion.removeprefix(name) + (place and f" at {place}")
    return f"did you mean {name!r}{advice}?"


def _find_closest(wanted: str, targets: Mapping[str, str], alike: float) -> str:
    """Return the target of the key that is spelt most similarly; "" if none reaches the ratio `alike`."""
    keys = difflib.get_close_matches(wanted, targets, n=1, cutoff=alike)
    return targets[keys[0]] if keys else ""


@lru_cache(maxsize=64)
def _map_spellings(known: tuple[str, ...]) -> Mapping[str, str]:
    """Return each word by its simplified name; a file with many mistakes asks for the same words each time."""
    return MappingProxyType({simplify_name(word): word for word in known})


def simplify_name(name: str) -> str:
    """Reduce a name to its letters and digits, in lower case: what different spellings of it have in common."""
    return "".join(character for character in name.lower() if character.isalnum())


def is_known(target: str, known: Iterable[str]) -> bool:
    """Return whether the word that an alias's target begins with is known; "timm:vgg16" counts as `timm`."""
    return _ADVICE.sub("", target).partition(":")[0] in known
