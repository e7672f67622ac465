"""From options to updates: a run's phases against a plain loop over leaves.

The reference knows nothing of labels, groups and optimizer states: every leaf has its own
moments, its own count and its own rate, worked out by hand from the options.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.common.trees import leaf_paths, lookup
from jtl.config.options import Config, StepsConfig
from jtl.data.loader import Images
from jtl.data.sampler import shuffled
from jtl.models import ImageClassifier
from jtl.train.checks import checked
from jtl.train.setup import Setup, prepare_setup
from jtl.train.trainer import Trainer
from support import tiny
from weights_convert.convert.rules import unflatten

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3
"""Of what a phase moves a leaf by. float32 against the reference's float64 arithmetic comes to
1e-4 after two dozen steps; one ReLU on its kink may cost some more. An option that is not heeded
comes to some 1e-1."""

Leaves = dict[str, Any]
WITH_PARAMS = ("stem", "stage1/block1", "stage2/block1", "head")
RULES = "stage2/.*/kernel=x0.5\nstage1=2e-3\nhead=train\n.*=frozen\n"
TRAINS: dict[str, Callable[[str], bool]] = {
    "head_only": lambda leaf: leaf.startswith("head/"),
    "last_stage": lambda leaf: leaf.startswith(("stage2/", "head/")),
    "norm_only": lambda leaf: leaf.startswith("head/") or "/bn/" in leaf,
    "full": lambda leaf: True,
    "rules": lambda leaf: (
        leaf.startswith(("head/", "stage1/"))
        or (leaf.startswith("stage2/") and leaf.endswith("/kernel"))
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Phases of (epochs, mask, learning rate), and options."""

    phases: tuple[tuple[int, str, float], ...]
    optimizer: str = "adam"
    bn: str = "batch"
    weight_decay: float = 0.0
    l2_sp: float = 0.0
    layer_decay: float = 1.0
    head_lr_mult: float = 1.0
    schedule: str = "cosine"
    steps: StepsConfig = dataclasses.field(default_factory=lambda: StepsConfig(warmup=0.0))

    def options(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def rate(self, leaf: str, mask: str, lr: float) -> float:
        """A leaf's highest learning rate."""
        if mask == "rules" and leaf.startswith("stage1/"):
            return 2e-3
        unit = next(u for u in WITH_PARAMS if leaf.startswith(u + "/"))
        rate = lr * self.layer_decay ** (len(WITH_PARAMS) - 1 - WITH_PARAMS.index(unit))
        if mask == "rules" and leaf.startswith("stage2/"):
            rate *= 0.5
        return rate * (self.head_lr_mult if unit == "head" else 1.0)

    def stats_units(self, trained: set[str]) -> frozenset[str]:
        """The units that use batch statistics; dropout is only in the head, which always trains."""
        if self.bn == "train":
            return frozenset(tiny.UNITS)
        trains = {u for u in WITH_PARAMS if any(leaf.startswith(u + "/") for leaf in trained)}
        return frozenset(trains & {"head"} if self.bn == "frozen" else trains)


CASES = {
    "adam: leaves join": Case(((1, "last_stage", 0.01), (2, "full", 0.005))),
    "adam: rules of one's own": Case(
        ((1, "rules", 0.01), (1, "last_stage", 0.01)), head_lr_mult=4.0, weight_decay=0.1
    ),
    "adamw: all options, frozen statistics": Case(
        ((1, "head_only", 0.02), (1, "last_stage", 0.01), (1, "full", 0.01)),
        *("adamw", "frozen"),
        weight_decay=0.5,
        l2_sp=0.3,
        layer_decay=0.5,
        head_lr_mult=3.0,
        schedule="constant",
    ),
    "sgd: frozen in between, all statistics": Case(
        ((1, "last_stage", 0.05), (1, "head_only", 0.05), (1, "last_stage", 0.05)),
        *("sgd", "train"),
        weight_decay=0.05,
        l2_sp=0.5,
    ),
    "sgd: norms, then all": Case(
        ((1, "norm_only", 0.02), (1, "full", 0.02)), "sgd", layer_decay=0.7, head_lr_mult=2.0
    ),
    "adamw: accumulated, clipped, smoothed, averaged, warmed": Case(
        ((2, "last_stage", 0.02), (2, "full", 0.01)),
        "adamw",
        weight_decay=0.1,
        head_lr_mult=2.0,
        steps=StepsConfig(warmup=0.5, accumulate=2, clip_norm=0.3, label_smoothing=0.2, ema=0.9),
    ),
}


class Reference:
    """Trains leaf by leaf."""

    def __init__(self, case: Case, setup: Setup):
        self.case, self.setup = case, setup
        self.params = flat(setup.variables["params"])
        self.stats = flat(setup.variables["batch_stats"])
        self.loaded = dict(self.params)
        self.count: dict[str, int] = {}
        self.first: Leaves = {}
        self.second: Leaves = {}
        self.step = 0
        self.highest = 0.0
        self.units: frozenset[str] = frozenset()
        self.average: Leaves = {}
        self.clipped = False

    def phase(self, mask: str, lr: float, epochs: range, images: Images) -> None:
        trained = {leaf for leaf in self.params if TRAINS[mask](leaf)}
        # What is frozen for a phase starts afresh.
        self.count = {leaf: self.count.get(leaf, 0) for leaf in trained}
        for leaf in trained:
            if not self.count[leaf]:
                self.first[leaf] = self.second[leaf] = np.zeros_like(self.params[leaf])
        units = self.units = self.case.stats_units(trained)
        batch, options = self.setup.config.train.batch_size, self.case.steps
        live = {leaf for leaf in self.stats if leaf.startswith(tuple(f"{unit}/" for unit in units))}
        self.average = {**{p: self.params[p] for p in trained}, **{s: self.stats[s] for s in live}}
        batches = [b for e in epochs for b in shuffled(len(images), batch, 0, e)]
        updates = len(batches) // options.accumulate
        summed = dict.fromkeys(trained, 0.0)
        for index, indices in enumerate(batches):
            grads, stats = self._gradient(images, indices, units)
            self.step += 1
            self.stats |= {leaf: stats[leaf] for leaf in live}
            summed = {leaf: summed[leaf] + grads[leaf].astype(np.float64) for leaf in trained}
            if (index + 1) % options.accumulate:
                continue
            means = {leaf: total / options.accumulate for leaf, total in summed.items()}
            summed = dict.fromkeys(trained, 0.0)
            norm = math.sqrt(sum(np.sum(mean**2) for mean in means.values()))
            shrink = min(1.0, options.clip_norm / norm) if options.clip_norm else 1.0
            self.clipped = self.clipped or shrink < 1.0
            share = self._share(index // options.accumulate, updates)
            rates = {leaf: self.case.rate(leaf, mask, lr) * share for leaf in trained}
            for leaf in trained:
                self._update(leaf, shrink * means[leaf], rates[leaf])
            count = index // options.accumulate
            decay = min(options.ema, (1 + count) / (10 + count))
            now = {**self.params, **self.stats}
            self.average = {k: decay * v + (1 - decay) * now[k] for k, v in self.average.items()}
            self.highest = max(rates.values())

    def _share(self, update: int, updates: int) -> float:
        rise = round((self.case.steps.warmup or 0) * updates)
        if update < rise:
            return (update + 1) / (rise + 1)
        if self.case.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (update - rise) / (updates - rise)))
        return 1.0

    def _gradient(self, images: Images, indices: Any, units: frozenset[str]) -> Any:
        x = self.setup.inputs.device(jnp.asarray(images.batch(indices)))
        y = jnp.asarray(images.labels[indices])
        variables = {"params": tree(self.params), "batch_stats": tree(self.stats)}
        rng = jax.random.fold_in(jax.random.key(0), self.step)
        smoothing = self.case.steps.label_smoothing
        model = self.setup.model
        grads, stats = gradient(variables, x, y, smoothing, rng, model=model, units=units)
        return flat(grads), flat(stats)

    def _update(self, leaf: str, g: Any, rate: float) -> None:
        case = self.case
        w = self.params[leaf].astype(np.float64)
        decay = case.weight_decay * w if leaf.endswith("/kernel") else 0.0 * w
        if not leaf.startswith("head/"):
            g = g + case.l2_sp * (w - self.loaded[leaf])
        if case.optimizer != "adamw":
            g = g + decay
        self.count[leaf] += 1
        if case.optimizer == "sgd":
            self.first[leaf] = 0.9 * self.first[leaf] + g
            move = g + 0.9 * self.first[leaf]
        else:
            self.first[leaf] = 0.9 * self.first[leaf] + 0.1 * g
            self.second[leaf] = 0.999 * self.second[leaf] + 0.001 * g * g
            mean = self.first[leaf] / (1 - 0.9 ** self.count[leaf])
            square = self.second[leaf] / (1 - 0.999 ** self.count[leaf])
            move = mean / (np.sqrt(square) + 1e-8)
            if case.optimizer == "adamw":
                move = move + decay
        self.params[leaf] = (w - rate * move).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("model", "units"))
def gradient(
    variables: Any,
    x: Any,
    y: Any,
    smoothing: Any,
    rng: Any,
    *,
    model: ImageClassifier,
    units: frozenset[str],
) -> Any:
    """Of the mean loss with respect to every param, and every unit's new statistics."""

    def loss(params: Any) -> Any:
        logits, updates = model.apply(
            {**variables, "params": params},
            x,
            train=units,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )
        shares = -jax.nn.log_softmax(logits)
        losses = jnp.take_along_axis(shares, y[:, None], 1)[:, 0]
        losses = (1 - smoothing) * losses + smoothing * shares.mean(-1)
        return losses.mean(), updates["batch_stats"]

    return jax.grad(loss, has_aux=True)(variables["params"])


def flat(variables: Any) -> Leaves:
    return {"/".join(p): np.asarray(lookup(variables, p)) for p in leaf_paths(variables)}


def tree(leaves: Leaves) -> Any:
    return unflatten({tuple(path.split("/")): leaf for path, leaf in leaves.items()})


def prepared(case: Case, data: Path, rules: Path) -> Setup:
    named = {"rules": f"rules:{rules}"}
    listed = ";".join(f"{n},{named.get(mask, mask)},{lr}" for n, mask, lr in case.phases)
    options = {**case.options(), "phases": listed}
    steps = options.pop("steps")
    config: Config = tiny.config(data, None, epochs=None, lr=None, **options)
    head = "bn,dense:6,dropout:.3"
    model = dataclasses.replace(config.model, head=head)
    config = dataclasses.replace(config, model=model, steps=steps)
    return prepare_setup(checked(config), tiny.quiet())


@pytest.mark.parametrize("name", CASES)
def test_every_leaf_is_where_a_plain_loop_takes_it(name: str, tiny_data: Path, tmp_path: Path):
    case = CASES[name]
    (tmp_path / "rules.txt").write_text(RULES)
    setup = prepared(case, tiny_data, tmp_path / "rules.txt")
    train, val = (Images(s, None, hold=True) for s in (setup.dataset.train, setup.dataset.val))
    inputs = dataclasses.replace(tiny.image_inputs(setup), examples={"train": train, "val": val})
    reference = Reference(case, setup)
    variables, opt_state, epoch = setup.variables, None, 0
    for (epochs, mask, lr), plan in zip(case.phases, setup.plans, strict=True):
        trainer = Trainer(setup, plan, inputs, variables)
        if opt_state is not None:
            trainer.carry_over(opt_state)
        before = flat(reference.params)
        line: Any = None
        for number in range(epoch + 1, epoch + epochs + 1):
            line = trainer.epoch(number)
        reference.phase(mask, lr, range(epoch + 1, epoch + epochs + 1), train)
        epoch += epochs
        averages = jax.device_get(trainer.variables())
        variables, opt_state = jax.device_get((trainer.last_variables(), trainer.state.opt_state))
        assert line["learning_rate"] == pytest.approx(reference.highest, rel=1e-5)
        compare(variables, reference, before, mask)
        compare_averages(averages, variables, reference, before)
        assert reference.clipped == bool(case.steps.clip_norm)
        # Rounding does not add up over phases, and what is frozen next can be held to its bits.
        reference.params = flat(variables["params"])
        reference.stats = flat(variables["batch_stats"])


def compare(variables: Any, reference: Reference, before: Leaves, mask: str) -> None:
    params, stats = flat(variables["params"]), flat(variables["batch_stats"])
    assert params.keys() == reference.params.keys()
    for leaf, want in reference.params.items():
        moved = np.linalg.norm(want - before[leaf])
        if not TRAINS[mask](leaf):
            assert params[leaf].tobytes() == before[leaf].tobytes(), leaf
            continue
        assert moved > 0, leaf
        assert np.linalg.norm(params[leaf] - want) < TOLERANCE * moved, leaf
    live = tuple(f"{unit}/" for unit in reference.units)
    for leaf, want in reference.stats.items():
        if not leaf.startswith(live):
            assert stats[leaf].tobytes() == want.tobytes(), leaf
        np.testing.assert_allclose(stats[leaf], want, rtol=TOLERANCE, atol=1e-5, err_msg=leaf)


def compare_averages(averages: Any, last: Any, reference: Reference, before: Leaves) -> None:
    """What is evaluated and saved: the averages where they are kept, else what there is."""
    for kind in last:
        for leaf, now in flat(last[kind]).items():
            got = flat(averages[kind])[leaf]
            if not (reference.case.steps.ema and leaf in reference.average):
                assert got.tobytes() == now.tobytes(), leaf
                continue
            want = reference.average[leaf]
            scale = np.linalg.norm(now - before[leaf]) if kind == "params" else 1.0
            assert np.linalg.norm(got - want) < TOLERANCE * scale, leaf
            assert np.linalg.norm(now - want) > 10 * TOLERANCE * scale, leaf
