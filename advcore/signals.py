"""Deprecated alias of advcore.runtime.signals, removed in the next release."""

from advcore.deprecation import forward_module

# Every name of the module.
__getattr__ = forward_module(__name__, "advcore.runtime.signals")
