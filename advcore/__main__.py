"""Run the command line: python -m advcore."""

from advcore.cli import main

main()
