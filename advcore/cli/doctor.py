"""advcore doctor: print the installed packages and the hardware."""

from advcore.cli.output import print_facts
from advcore.version import __version__


def doctor() -> None:
    """Print the installed packages and the machine's hardware."""
    from advcore.run.doctor import describe_installation

    print_facts(f"advcore {__version__}", describe_installation())
