"""From uint8 images to what the backbone expects, on the device, inside the compiled step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jtl.models import Preprocessing


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Scales uint8 images up to the input size and normalizes them.

    Compared by value, so that it can be a static argument of a compiled step.

    Attributes:
        size: Height and width of the result, in pixels; images of this size are not resized.
        preprocessing: Mean, standard deviation, interpolation and channel order of the
            weights.
        dtype: Of the result and so of the backbone's computation: float32 or bfloat16.
        method: How images are enlarged: `bilinear`, `bicubic` or `nearest`; None for the
            preprocessing's interpolation. `nearest` repeats pixels, so `size` must be a
            multiple of theirs.
    """

    size: int
    preprocessing: Preprocessing
    dtype: str = "float32"
    method: str | None = None

    def __call__(self, images: jax.Array | np.ndarray) -> jax.Array:
        """uint8 RGB [N, H, W, 3] -> normalized [N, size, size, 3] of `dtype`.

        Arithmetic is float32; bicubic is Keys's kernel with a = -0.5, as in Pillow.
        """
        return self.normalize(self.resize(images))

    @property
    def interpolation(self) -> str:
        """How images are resized on the device: `bilinear`, `bicubic` or `nearest`."""
        return self.method or self.preprocessing.interpolation

    def resize(self, images: jax.Array | np.ndarray) -> jax.Array:
        """uint8 RGB [N, H, W, 3] -> float32 [N, size, size, 3], 0 to 255."""
        x = jnp.asarray(images).astype(jnp.float32)
        shape = (x.shape[0], self.size, self.size, x.shape[3])
        return x if x.shape == shape else self._enlarge(x, shape)

    def normalize(self, x: jax.Array) -> jax.Array:
        """float32 RGB [N, size, size, 3], 0 to 255 -> what the backbone expects, of `dtype`."""
        mean = jnp.asarray(self.preprocessing.mean, jnp.float32).reshape(1, 1, 1, -1)
        std = jnp.asarray(self.preprocessing.std, jnp.float32).reshape(1, 1, 1, -1)
        x = (x / 255.0 - mean) / std
        if self.preprocessing.channel_order == "bgr":
            x = x[..., ::-1]
        return x.astype(self.dtype)

    def _enlarge(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if self.interpolation == "nearest":
            times = self.size // x.shape[1]
            return jnp.repeat(jnp.repeat(x, times, axis=1), times, axis=2)
        method = {"bicubic": "cubic", "bilinear": "linear"}[self.interpolation]
        # A cubic kernel overshoots at edges; no image file could hold such values.
        return jnp.clip(jax.image.resize(x, shape, method), 0.0, 255.0)
