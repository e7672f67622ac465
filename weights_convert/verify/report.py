"""The numeric parity report: one input through the source's library and through Flax.

Every layer with params is compared, then the logits, then the params and running statistics
after one training step of plain SGD. The peers (`weights_convert.verify.peers`) read the file with
their own reader and compute with their own network, so what is wrong in jtl's reader, tables,
layouts, conventions or layers shows as a difference.

A difference is stated as its largest absolute value, and relative to the largest absolute value
of the peer's tensor; of params and updates as the norm of all of them beside the peer's norm.

A step amplifies rounding. An activation that lies within rounding of ReLU's kink falls on one
side here and on the other there, and its gradient is all or nothing: a library's own float32
updates are up to some percent from its float64 updates, the more the deeper the network. So the
step's figures are held to their bound or to a multiple of the library's own rounding, whichever
is larger, and the report states both. Such flips point in all directions and hardly change how
far the step goes along the library's, which has a figure and a tight bound of its own: there a
step that is wrong by a few percent shows in the deepest network as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths, lookup
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.convert.rules import unflatten
from weights_convert.source.description import Source
from weights_convert.verify import peers
from weights_convert.verify.tables import Figure, UnitRow, Verification

# What float32 allows two libraries that add the same numbers in other orders.
LOGITS_BOUND = 1e-4
LAYERS_BOUND = 1e-4
STEP_BOUND = 1e-4
# Flips at kinks moved DenseNet121's updates by 5e-3, and their length by 1e-4, where its own
# float32 flipped next to none.
UPDATES_BOUND = 2e-2
LENGTH_BOUND = 5e-3
AGREEMENT_BOUND = 1.0
# Two float32 computations are up to twice as far from one another as each is from float64, and
# how many activations flip is chance. Measured over ResNet 18 to 101, DenseNet121 and Lite0, in
# units of the library's own rounding where that exceeds the bounds: up to 1.5.
ROUNDINGS = 4.0

_BATCH, _BATCHES = 2, 8
_STEP_IMAGES, _STEP_SIZE = 16, 96
_LARGE_STEP_IMAGES = 4  # Of a network that takes no smaller ones.
_LEARNING_RATE = 0.01
_SEED = 0


def verify(checkpoint: ConvertedCheckpoint, source: Source) -> Verification:
    """Compares converted weights with their source's library.

    Args:
        checkpoint: What `source_conversion.convert_source` made of `source`, head included.
        source: Where the file is.

    Raises:
        UserError: The library is not installed, or has no such network.
    """
    peer = peers.load(checkpoint, source)
    model = build(checkpoint)
    # Two libraries draw differently what they drop.
    backbone: Any = model.backbone
    if getattr(backbone, "dropout", 0.0):
        model = model.clone(backbone=dataclasses.replace(backbone, dropout=0.0))
    size = peer.only_size or checkpoint.preprocessing.size
    rng = np.random.default_rng(_SEED)
    spread = _input_spread(checkpoint.preprocessing)
    batches = [spread * _images(rng, _BATCH, size) for _ in range(_BATCHES)]
    units, logits = _compare_forward(peer, model, checkpoint, batches)
    count, step_size = _STEP_IMAGES, _STEP_SIZE
    if peer.only_size:
        count = _STEP_IMAGES if peer.only_size <= _STEP_SIZE else _LARGE_STEP_IMAGES
        step_size = peer.only_size
    images = spread * _images(rng, count, step_size)
    labels = rng.integers(0, checkpoint.num_classes or _features(model), count)
    step, rounding = _compare_step(peer, model, checkpoint, images, labels)
    worst = max((row.max_rel for row in units), default=0.0)
    layers = Figure("layers: largest relative difference", worst, "<=", LAYERS_BOUND)
    what = (
        f"Input: {_BATCH * _BATCHES} random images of {size} x {size} pixels, and for the step "
        f"{count} of {step_size} x {step_size}; float32, seed {_SEED}. Rounding alone "
        f"moves the reference's own updates by {rounding:.1e}; figures of the step may be "
        f"{ROUNDINGS:g} times such rounding from it."
    )
    return Verification(
        model=checkpoint.model,
        source=checkpoint.source,
        reference=peer.reference,
        images=what,
        units=tuple(units),
        figures=(layers, *logits, *step),
        notes=checkpoint.notes,
    )


def build(checkpoint: ConvertedCheckpoint) -> models.ImageClassifier:
    """The classifier, or the bare backbone, of converted weights."""
    return models.create(
        checkpoint.model,
        num_classes=checkpoint.num_classes or 1,
        head=models.get(checkpoint.model).classifier if checkpoint.num_classes else None,
        conventions=checkpoint.conventions,
    )


def _features(model: models.ImageClassifier) -> int:
    import jax

    images = jax.ShapeDtypeStruct((1, _STEP_SIZE, _STEP_SIZE, 3), np.float32)
    return models.output_shape(model, models.variable_shapes(model), images).shape[-1]


def _input_spread(preprocessing: models.Preprocessing) -> float:
    """The standard deviation of network inputs, from that of usual pixels in [0, 1]."""
    return 0.25 / float(np.mean(preprocessing.std))


def _images(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Smooth random images with noise, [count, size, size, 3] float32 of unit spread."""
    coarse = rng.standard_normal((count, -(-size // 16), -(-size // 16), 3))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :size, :size]
    return (0.8 * smooth + 0.6 * rng.standard_normal(smooth.shape)).astype(np.float32)


def relative(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The largest difference, absolute and relative to the largest of `theirs`."""
    if ours.shape != theirs.shape:
        raise UserError(
            f"the source's library gives an array of shape {theirs.shape} where the converted "
            f"model gives {ours.shape}: they are different networks."
        )
    difference = float(np.max(np.abs(ours.astype(np.float64) - theirs), initial=0.0))
    scale = float(np.max(np.abs(theirs), initial=0.0))
    if difference == 0.0 or scale == 0.0:
        return difference, difference
    return difference, difference / scale


def _compare_forward(
    peer: peers.Peer,
    model: models.ImageClassifier,
    checkpoint: ConvertedCheckpoint,
    batches: list[np.ndarray],
) -> tuple[list[UnitRow], list[Figure]]:
    """Every layer on the first batch, the logits on all."""
    import jax

    from jtl.models.layers.blocks import unfused_layers

    def run(variables: Any, images: Any) -> Any:
        with unfused_layers():
            out, captured = model.apply(
                variables, images, capture_intermediates=True, mutable=["intermediates"]
            )
        return _as_vectors(model, out), captured["intermediates"]

    # One program for both, because compiling it takes longer than running it.
    apply = jax.jit(run)
    first, captured = apply(checkpoint.variables, batches[0])
    units = _compare_layers(peer, model, checkpoint, batches[0], captured)
    del captured
    rest = [apply(checkpoint.variables, batch)[0] for batch in batches[1:]]
    ours = np.concatenate([np.asarray(logits) for logits in (first, *rest)])
    theirs = np.concatenate([peer.forward(batch) for batch in batches])
    largest, rel = relative(ours, theirs)
    what = "logits" if checkpoint.num_classes else "features"
    agreement = float(np.mean(ours.argmax(-1) == theirs.argmax(-1)))
    scale = float(np.abs(theirs).max())
    return units, [
        Figure(f"{what}: largest difference", largest, "<=", LOGITS_BOUND * scale),
        Figure(f"{what}: largest relative difference", rel, "<=", LOGITS_BOUND),
        Figure(f"{what}: top-1 agreement", agreement, ">=", AGREEMENT_BOUND),
    ]


def _compare_layers(
    peer: peers.Peer,
    model: models.ImageClassifier,
    checkpoint: ConvertedCheckpoint,
    images: np.ndarray,
    captured: Any,
) -> list[UnitRow]:
    table = peers.table_of(checkpoint)
    # Convolutions, normalizations and dense layers: every module that owns params.
    modules = list(dict.fromkeys(p[1:-1] for p in leaf_paths(checkpoint.variables)))
    names = table.layer_names(modules, model.backbone)
    theirs = peer.layers(images, names.values())
    rows: dict[str, list[tuple[float, float]]] = {}
    for module, name in names.items():
        ours = np.asarray(lookup(captured, (*module, "__call__"))[0])
        peer_s = theirs[name]
        if ours.ndim == 4 and peer_s.ndim == 4 and peer_s.shape != ours.shape:
            peer_s = peer_s.transpose(0, 3, 1, 2)  # It has channels last there, too.
        if peer_s.ndim != ours.ndim:  # A dense layer there, over one pixel here; or the reverse.
            ours, peer_s = (array.reshape(len(array), -1) for array in (ours, peer_s))
        rows.setdefault(_unit_of(model, module), []).append(relative(ours, peer_s))
    return [
        UnitRow(unit.path, len(pairs), max(p[0] for p in pairs), max(p[1] for p in pairs))
        for unit in model.units()
        if (pairs := rows.get(unit.path))
    ]


def _unit_of(model: models.ImageClassifier, module: tuple[str, ...]) -> str:
    path = "/".join(module)
    return next(u.path for u in model.units() if f"{path}/".startswith(f"{u.path}/"))


def _as_vectors(model: models.ImageClassifier, out: Any) -> Any:
    """Logits, or the averaged features of a bare backbone; [N, width] float32."""
    return out if model.head is not None else out.mean((1, 2))


def _compare_step(
    peer: peers.Peer,
    model: models.ImageClassifier,
    checkpoint: ConvertedCheckpoint,
    images: np.ndarray,
    labels: np.ndarray,
) -> tuple[list[Figure], float]:
    """The figures of a step, and how far rounding alone moves the peer's updates."""
    ours = _sgd_step(model, checkpoint.variables, images, labels)
    precise, rounded = (
        _in_our_tree(state, checkpoint, model)
        for state in peer.sgd_steps(images, labels, _LEARNING_RATE)
    )
    return step_figures(checkpoint.variables, ours, precise, rounded)


def step_figures(before: Any, ours: Any, precise: Any, rounded: Any) -> tuple[list[Figure], float]:
    """Compares what a training step made of `before`.

    Args:
        before: The variables that both steps started from.
        ours: The variables after Flax's step.
        precise: The same of the peer, as precise as it computes.
        rounded: The same of the peer; what lies between it and `precise` is rounding.

    Returns:
        The figures with their bounds, and the distance of `rounded`'s updates from `precise`'s.
    """
    start = before["params"]

    def measured(state: Any) -> dict[str, tuple[float, float]]:
        """{name: (figure, its bound without rounding)}."""
        params, updates, length = _distances(state["params"], precise["params"], start)
        figures = {
            "params, relative": (params, STEP_BOUND),
            "updates, relative": (updates, UPDATES_BOUND),
            "updates, relative difference of length": (length, LENGTH_BOUND),
        }
        if before["batch_stats"]:
            statistics = _worst(state["batch_stats"], precise["batch_stats"])
            figures["running statistics, largest relative difference"] = (statistics, STEP_BOUND)
        return figures

    own = measured(rounded)
    figures = [
        Figure(f"SGD step: {name}", figure, "<=", max(bound, ROUNDINGS * own[name][0]))
        for name, (figure, bound) in measured(ours).items()
    ]
    return figures, own["updates, relative"][0]


def _sgd_step(model: models.ImageClassifier, before: Any, images: Any, labels: Any) -> Any:
    import jax
    import optax

    from jtl import onednn

    def loss(params: Any) -> Any:
        variables = {"params": params, "batch_stats": before["batch_stats"]}
        out, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(_as_vectors(model, out), labels)
        return losses.mean(), updated

    # Its sums are so much coarser than any library's that activations at ReLU6's two kinks flip.
    with onednn.disabled(onednn.Normalization):
        gradient, updated = jax.jit(jax.grad(loss, has_aux=True))(before["params"])
    params = jax.tree.map(lambda p, g: p - _LEARNING_RATE * g, before["params"], gradient)
    return jax.tree.map(np.asarray, {"params": params, "batch_stats": updated["batch_stats"]})


def _in_our_tree(
    state: Mapping[str, np.ndarray], checkpoint: ConvertedCheckpoint, model: Any
) -> Any:
    """The peer's state in Flax's tree and layout, its dtype kept."""
    table = peers.table_of(checkpoint)
    keys = table.source_keys(model.backbone, checkpoint.variables)
    leaves = {
        path: table.to_target(path, state[key], lookup(checkpoint.variables, path).shape)
        for path, key in keys.items()
    }
    return {**{collection: {} for collection in checkpoint.variables}, **unflatten(leaves)}


def _worst(ours: Any, theirs: Any) -> float:
    """The largest relative difference of a leaf."""
    pairs = ((lookup(ours, path), lookup(theirs, path)) for path in leaf_paths(ours))
    return max((relative(mine, peer)[1] for mine, peer in pairs), default=0.0)


def _distances(ours: Any, theirs: Any, start: Any) -> tuple[float, float, float]:
    """How far `ours` is from `theirs`, over all leaves as one vector.

    Returns:
        |ours - theirs| relative to |theirs|; the same relative to |theirs - start|; and the part
        of it that lies along theirs - start.
    """
    difference = along = whole = moved = 0.0
    for path in leaf_paths(theirs):
        mine, peer, origin = (
            np.asarray(lookup(tree, path), np.float64).ravel() for tree in (ours, theirs, start)
        )
        mine, origin = mine - peer, peer - origin
        difference += float(mine @ mine)
        along += float(mine @ origin)
        whole += float(peer @ peer)
        moved += float(origin @ origin)
    distance = difference**0.5
    if not moved:
        return distance, distance, distance
    return distance / whole**0.5, distance / moved**0.5, abs(along) / moved
