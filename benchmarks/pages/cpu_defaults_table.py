"""The table of advcore/runtime/cpu_defaults.py, from the records of benchmarks/measure/cpu_defaults.py."""

from pathlib import Path

from cpu_page import defaults_records, release

from advcore.runtime import cpu_defaults

MARGIN = 1.03


def defaults_of(record: dict) -> dict[str, dict[str, bool]]:
    """Decide each family's defaults: what is faster by MARGIN in all of its cases, and with both optimisers."""
    families: dict[str, dict[str, bool]] = {}
    for case in record["cases"]:
        faster = {
            "channels_last": case["channels_last"]["ratio"] >= MARGIN,
            "fused": min(case["fused"].values()) >= MARGIN,
        }
        before = families.setdefault(case["family"], faster)
        families[case["family"]] = {setting: before[setting] and faster[setting] for setting in faster}
    return families


def table() -> dict[str, dict[str, dict[str, bool]]]:
    """The table that advcore/runtime/cpu_defaults.py should hold."""
    return {release(record): defaults_of(record) for record in defaults_records()}


def write() -> None:
    """Write the table into advcore/runtime/cpu_defaults.py."""
    lines = ["{"]
    for version, families in table().items():
        lines.append(f'    "{version}": {{')
        lines += [f'        "{family}": {chosen},'.replace("'", '"') for family, chosen in families.items()]
        lines.append("    },")
    path = Path(cpu_defaults.__file__)
    head, begin, rest = path.read_text().partition("CPU_DEFAULTS: dict[str, dict[str, dict[str, bool]]] = ")
    rest = rest[rest.index('\n"""Release') :]
    path.write_text(head + begin + "\n".join([*lines, "}"]) + rest)
