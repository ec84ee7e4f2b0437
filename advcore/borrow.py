"""Lead to advcore.runtime.borrow, with a warning; to be removed with the next release."""

from advcore.deprecation import forward_module

__getattr__ = forward_module(__name__, "advcore.runtime.borrow")
"""Every name of the module."""
