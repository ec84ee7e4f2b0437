"""Say which packages a distribution holds; all else stands in setup.cfg.

The experiments of the repository on digits are package data, so that `advcore run NAME` works from an installed wheel.
They are not copied into the package's folder: experiments/ is their only place.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["advcore*"]), "advcore.experiments"],
    package_dir={"advcore.experiments": "experiments"},
)
