"""Max and average pooling over NHWC images, which lower differently by platform.

XLA's gradient of max pooling is a select-and-scatter, which CPUs run window by window: for a
ResNet's stem it takes longer than that of all convolutions there. On CPU the maximum is
therefore taken over shifted images, which remembers where it was found, so that the gradient is
a sum of shifted images too; in training oneDNN does both faster still, where it is installed.
Accelerators keep XLA's form. Averages of neighbourhoods are shifted images or oneDNN's likewise.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jtl import onednn
from jtl.common.platforms import by_platform
from jtl.models.layers.conv import Padding, explicit_padding
from jtl.models.layers.xla_convolution import Pads


def max_pool(x: jax.Array, window: int, strides: int, padding: Padding) -> jax.Array:
    """Max pooling; padded pixels never win, and NaN always does.

    Of equal values in a window the first one, row by row, gets the gradient, as in PyTorch.

    Args:
        x: NHWC, float.
        window: Height and width of a window, in pixels.
        strides: Steps between windows, vertical and horizontal.
        padding: See `jtl.models.layers.conv.Padding`.
    """
    _, height, width, _ = x.shape
    pads = explicit_padding(padding, (height, width), (window, window), (strides, strides))
    return _max_pool(x, window, strides, pads)


def avg_pool(x: jax.Array, window: int, strides: int) -> jax.Array:
    """Average pooling without padding; a last partial window is dropped."""
    return nn.avg_pool(x, (window, window), (strides, strides), "VALID")


def halve(x: jax.Array) -> jax.Array:
    """Average of 2x2 pixels, and of those that there are at an odd edge: PyTorch's ceil mode."""
    for axis in (1, 2):
        if x.shape[axis] % 2:  # A pixel twice has the average of itself.
            x = jnp.concatenate([x, lax.slice_in_dim(x, -1, None, axis=axis)], axis)
    return avg_pool(x, 2, 2)


def neighbourhood_avg(x: jax.Array, window: int, *, counts_padding: bool) -> jax.Array:
    """Averages each pixel's neighbourhood: average pooling with stride 1 that keeps the size.

    Args:
        x: NHWC, float; sums are float32.
        window: Height and width of the neighbourhood, odd.
        counts_padding: Whether the zeros around the image count, as in PyTorch; in Keras the
            average is that of the pixels which there are.
    """
    average: Any = _neighbourhood_avg(x.astype(jnp.float32), window)
    if not counts_padding:
        rows, columns = (_inside(n, window) for n in x.shape[1:3])
        average *= (window**2 / np.outer(rows, columns)).astype(np.float32)[None, :, :, None]
    return average.astype(x.dtype)


def _inside(pixels: int, window: int) -> np.ndarray:
    """How many pixels of each one's neighbourhood are in the image, along one axis."""
    places, reach = np.arange(pixels), window // 2
    return np.minimum(places, reach) + np.minimum(places[::-1], reach) + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _neighbourhood_avg(x: jax.Array, window: int) -> jax.Array:
    by_xla = functools.partial(_shifted_avg, window=window)
    operation = onednn.NeighbourhoodAverage(x.shape, window)

    def on_cpu(x):
        return onednn.call(operation, x)[0] if onednn.available(operation) else by_xla(x)

    return by_platform(x, cpu=on_cpu, default=by_xla)


# Each pixel counts as much for its neighbour as the neighbour for it.
_neighbourhood_avg.defvjp(
    lambda x, window: (_neighbourhood_avg(x, window), None),
    lambda window, _, dy: (_neighbourhood_avg(dy, window),),
)


def _shifted_avg(x: jax.Array, *, window: int) -> jax.Array:
    """Sums of shifted images, down and then across, which XLA fuses."""
    reach = window // 2
    for axis in (1, 2):
        length = x.shape[axis]
        padded = jnp.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(4)])
        x = sum(
            (lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(1, window)),
            lax.slice_in_dim(padded, 0, length, axis=axis),
        )
    return x / window**2


def adaptive_avg_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages over as many windows as are asked for, whatever the image's size.

    Windows cover the image evenly, and overlap where it does not divide, as those of PyTorch's
    layer of this name: window i of m over n pixels goes from floor(i n / m) to ceil((i + 1) n / m).

    Args:
        x: NHWC, float; sums are float32.
        size: Windows (down, across), more than pixels too.
    """
    if x.shape[1:3] == size:
        return x
    rows, columns = (_shares(n, out) for n, out in zip(x.shape[1:3], size, strict=True))
    wide = x.astype(jnp.float32)
    return jnp.einsum("nhwc,rh,qw->nrqc", wide, rows, columns, precision="highest").astype(x.dtype)


def _shares(pixels: int, windows: int) -> np.ndarray:
    """What each pixel counts in each window's average, float32 [windows, pixels]."""
    shares = np.zeros((windows, pixels), np.float32)
    for i in range(windows):
        first, last = i * pixels // windows, -(-(i + 1) * pixels // windows)
        shares[i, first:last] = 1 / (last - first)
    return shares


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, strides, pads):
    kind = {"window": window, "strides": strides, "pads": pads}
    by_axes, plain = (functools.partial(f, **kind) for f in (_by_axes, _plain))
    return by_platform(x, cpu=by_axes, default=plain)


def _forward(x, window, strides, pads):
    operation = _operation("pooling", x, window, strides, pads)

    def default(x):
        y = _plain(x, window=window, strides=strides, pads=pads)
        if operation is not None:
            return y, jnp.zeros(operation.workspace, jnp.uint8)
        return y, jnp.zeros(y.shape, _index_dtype(window))

    def without_onednn(x, y):
        del y  # Where it should be NaN it is the next largest value.
        return _by_axes(x, window=window, strides=strides, pads=pads)

    def on_cpu(x):
        if operation is not None:
            y, workspace = onednn.call(operation, x)
            return lax.cond(jnp.isnan(jnp.max(x)), without_onednn, lambda x, y: y, x, y), workspace
        return _shifted(x, window=window, strides=strides, pads=pads)

    y, where = by_platform(x, cpu=on_cpu, default=default)
    # Each platform's gradient needs one of the two; the compiler drops the other.
    return y, (x, where)


def _backward(window, strides, pads, residuals, dy):
    x, where = residuals
    operation = _operation("pooling_gradient", x, window, strides, pads)

    def default(x, where, dy):
        del where
        plain = functools.partial(_plain, window=window, strides=strides, pads=pads)
        return jax.vjp(plain, x)[1](dy)[0]

    def shifted(where, dy):
        def of_one_image(operands):
            where, dy = (operand[None] for operand in operands)
            return _shifted_gradient(where, dy, (1, *x.shape[1:]), window, strides, pads)[0]

        # A loop is what XLA does not fuse into: else it finds the maxima again for every pixel
        # of the gradient, and for every use of that.
        return lax.map(of_one_image, (where, dy))

    def on_cpu(x, where, dy):
        del x
        if operation is not None:
            return onednn.call(operation, dy, where)[0]
        return shifted(where, dy)

    return (by_platform(x, where, dy, cpu=on_cpu, default=default),)


_max_pool.defvjp(_forward, _backward)


def _operation(kind, x, window, strides, pads) -> onednn.MaxPooling | None:
    """oneDNN's, where it has both directions."""
    (top, bottom), (left, right) = pads
    rows, columns = (
        (n + sum(pad) - window) // strides + 1 for n, pad in zip(x.shape[1:3], pads, strict=True)
    )
    if min(rows, columns) < 1:
        return None
    outputs = (x.shape[0], rows, columns, x.shape[3])
    shapes = (x.shape, outputs, (window, window), (strides, strides), (top, bottom, left, right))
    kinds: tuple[Any, ...] = ("pooling", "pooling_gradient")
    operations = (onednn.MaxPooling(kind, *shapes, dtype=x.dtype.name) for kind in kinds)
    fitted = {one.kind: onednn.with_workspace(one) for one in operations}
    return None if None in fitted.values() else fitted[kind]


def _plain(x: jax.Array, *, window: int, strides: int, pads: Pads) -> jax.Array:
    around: Any = pads
    return nn.max_pool(x, (window, window), (strides, strides), around)


def _by_axes(x: jax.Array, *, window: int, strides: int, pads: Pads) -> jax.Array:
    """The maximum over columns of pixels, then over rows of those; NaN stays.

    Padding is left out instead of compared: XLA's loop over a padded image asks for every pixel
    whether there is one, which takes several times as long as the rest.
    """
    for axis, pad in zip((1, 2), pads, strict=True):
        x = _along(x, axis, window, strides, pad)
    return x


def _along(x: jax.Array, axis: int, window: int, strides: int, pad: tuple[int, int]) -> jax.Array:
    """Max pooling along one axis."""
    length = x.shape[axis]
    count = max((length + sum(pad) - window) // strides + 1, 0)
    first = [i * strides - pad[0] for i in range(count)]
    whole = [start for start in first if 0 <= start <= length - window]

    def maximum(starts: list[int], last: int) -> jax.Array:
        """Over windows of `last` - `starts[0]` pixels each."""
        reach = starts[-1] - starts[0] + 1
        taps = (lax.slice_in_dim(x, i, i + reach, strides, axis) for i in range(starts[0], last))
        return functools.reduce(jnp.maximum, taps)

    def cut(start: int) -> jax.Array:
        """The maximum of a window that goes over the edge."""
        inside = range(max(start, 0), min(start + window, length))
        if not inside:
            edge = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
            return jnp.full(edge, -jnp.inf, x.dtype)
        return maximum([inside.start], inside.stop)

    parts = [cut(start) for start in first if start < 0]
    if whole:
        parts.append(maximum(whole, whole[0] + window))
    parts += [cut(start) for start in first if start >= 0 and start > length - window]
    empty = lax.slice_in_dim(x, 0, 0, axis=axis)
    return lax.concatenate(parts or [empty], axis)


def _shifted(x: jax.Array, *, window: int, strides: int, pads: Pads) -> tuple[jax.Array, jax.Array]:
    """The maximum over each window, and the number of the tap where it is."""
    low = jnp.array(-jnp.inf, x.dtype)
    x = lax.pad(x, low, ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))
    (number, tap), *others = enumerate(_taps(x, window, strides))
    best, where = tap, jnp.full(tap.shape, number, _index_dtype(window))
    for number, tap in others:
        # NaN wins and stays, as it does everywhere.
        wins = (tap > best) | (tap != tap)
        best = jnp.where(wins, tap, best)
        where = jnp.where(wins, where.dtype.type(number), where)
    return best, where


def _taps(x: jax.Array, window: int, strides: int) -> Iterator[jax.Array]:
    """One pixel of all windows at a time, row by row."""
    batch, height, width, channels = x.shape
    rows, columns = ((n - window) // strides * strides + 1 for n in (height, width))
    for i in range(window):
        for j in range(window):
            limits = (batch, i + rows, j + columns, channels)
            yield lax.slice(x, (0, i, j, 0), limits, (1, strides, strides, 1))


def _shifted_gradient(
    where: jax.Array,
    dy: jax.Array,
    shape: tuple[int, ...],
    window: int,
    strides: int,
    pads: Pads,
) -> jax.Array:
    """Gives each window's gradient to the pixel that won.

    Pixels whose position modulo the strides is the same see the same taps, so each such phase is
    a sum of whole shifted images, and the phases are interleaved at the end.
    """
    batch, _, _, channels = shape
    rows, columns = dy.shape[1:3]
    # Pixels per phase: up to the last one that a window reaches.
    reach = (window - 1) // strides
    height, width = rows + reach, columns + reach
    zero = jnp.zeros((), dy.dtype)
    phases = []
    for a in range(strides):
        for b in range(strides):
            total = jnp.zeros((batch, height, width, channels), dy.dtype)
            for i in range(a, window, strides):
                for j in range(b, window, strides):
                    won = jnp.where(where == i * window + j, dy, zero)
                    down, across = i // strides, j // strides
                    around = ((down, reach - down, 0), (across, reach - across, 0))
                    total += lax.pad(won, zero, ((0, 0, 0), *around, (0, 0, 0)))
            phases.append(total)
    grid = jnp.stack(phases, 3).reshape(batch, height, width, strides, strides, channels)
    grid = grid.transpose(0, 1, 3, 2, 4, 5)
    grid = grid.reshape(batch, height * strides, width * strides, channels)
    # Cut to the padded image, or fill up where its last pixels are in no window.
    (top, bottom), (left, right) = pads
    ends = [n + sum(pad) for n, pad in zip(shape[1:3], pads, strict=True)]
    missing = [max(end - n, 0) for end, n in zip(ends, grid.shape[1:3], strict=True)]
    grid = lax.pad(grid, zero, ((0, 0, 0), *((0, m, 0) for m in missing), (0, 0, 0)))
    return grid[:, top : ends[0] - bottom, left : ends[1] - right]


def _index_dtype(window: int):
    return jnp.int8 if window * window <= 127 else jnp.int32
