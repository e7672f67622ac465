"""Convolution, batch normalization and pooling on x86 CPUs by oneDNN, inside JAX programs.

XLA's own convolution reaches about half of what oneDNN does on the same cores, and less in the
gradients; its batch normalization goes over the images about twice as often. oneDNN comes as a
shared library from PyPI (`pip install 'jtl[onednn]'`) and needs no compiler: its C interface is
called from Python through ctypes, and XLA calls Python through its C interface for custom
calls. A call costs some 20 microseconds beside operations of milliseconds, and the
interpreter's lock is free while oneDNN works.
"""

from jtl.onednn.calls import (
    TARGET,
    available,
    call,
    computes,
    disabled,
    installed,
    with_workspace,
)
from jtl.onednn.convolution import Activation, Convolution, Kind
from jtl.onednn.normalization import Normalization
from jtl.onednn.pooling import MaxPooling, NeighbourhoodAverage

__all__ = [
    "TARGET",
    "Activation",
    "Convolution",
    "Kind",
    "MaxPooling",
    "NeighbourhoodAverage",
    "Normalization",
    "available",
    "call",
    "computes",
    "disabled",
    "installed",
    "with_workspace",
]
