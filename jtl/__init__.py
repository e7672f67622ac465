"""Transfer learning for image classification in JAX and Flax."""

from importlib.metadata import version

__version__ = version("jtl")
