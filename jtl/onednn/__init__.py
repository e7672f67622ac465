"""Convolution on x86 CPUs by oneDNN, inside compiled JAX programs, without a compiler.

XLA's own convolution reaches about half of what oneDNN does on the same cores, and less in the
gradients. oneDNN comes as a shared library from PyPI (`pip install 'jtl[onednn]'`); its C
interface is called from Python through ctypes, and XLA calls Python through its C interface
for custom calls. A call costs some 20 microseconds beside convolutions of milliseconds, and
the interpreter's lock is free while oneDNN works.
"""

from jtl.onednn.calls import TARGET, available, call, disabled, installed
from jtl.onednn.primitives import Geometry, Kind

__all__ = ["TARGET", "Geometry", "Kind", "available", "call", "disabled", "installed"]
