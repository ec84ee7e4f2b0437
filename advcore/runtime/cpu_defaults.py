"""What is faster on a CPU, by torch's release and the model's family: the table from which `Speed` takes its defaults.

Written by `make pages` from benchmarks/records/cpu_defaults; not to be edited.
"""

import re

CPU_DEFAULTS: dict[str, dict[str, dict[str, bool]]] = {
    "2.14": {
        "small_cnn": {"channels_last": True, "fused": True},
        "alexnet": {"channels_last": True, "fused": True},
        "resnet": {"channels_last": False, "fused": True},
        "preact_resnet": {"channels_last": True, "fused": True},
        "wide_resnet": {"channels_last": True, "fused": True},
    },
}
"""Release, family, setting: whether it is faster in every case that was measured."""


def look_up_defaults(family: str | None, version: str) -> dict[str, bool]:
    """Look up which settings of `Speed` are on by default for a family of models, under a version of torch.

    The newest measured release that is not newer than `version` counts. Empty for an older version, for a family that
    was not measured, and for None.
    """
    measured = {_parse_release(text): families for text, families in CPU_DEFAULTS.items()}
    not_newer = [release for release in measured if release <= _parse_release(version)]
    if family is None or not not_newer:
        return {}
    return measured[max(not_newer)].get(family, {})


def _parse_release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version such as "2.14.1+cpu"; (0, 0) for any other text."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
