"""advcore doctor: print what is installed."""

from advcore.cli.output import print_facts
from advcore.version import __version__


def doctor() -> None:
    """Print what is installed and what this machine has."""
    from advcore.run.doctor import describe_installation

    print_facts(f"advcore {__version__}", describe_installation())
