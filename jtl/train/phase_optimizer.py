"""The optimizer of a phase: a transformation and a schedule for every group of leaves."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from jtl.common.trees import leaf_paths, lookup
from jtl.freeze.param_groups import is_head
from jtl.freeze.phase_plan import PhasePlan, first_phase
from jtl.optim import optimizers
from jtl.optim.recipe import Rates
from jtl.train.setup import Setup

_BUILT: dict[Any, optax.GradientTransformation] = {}
"""Optimizers of the last phases, by all that they are made of."""
_MOST_BUILT = 16


class PhaseOptimizer:
    """The schedules of a phase's learning rates, and what makes updates of gradients."""

    def __init__(self, setup: Setup, plan: PhasePlan):
        """Works out the schedules: shares of the highest rates, see `optim.scale_by_peak`."""
        self._setup, self._plan = setup, plan
        # Schedules, and the counts of optimizers, count updates.
        self._updates = setup.steps_per_epoch // setup.config.steps.accumulate
        total = plan.phase.epochs * self._updates
        self._shares = {
            label: plan.recipe.schedule.over(total, self._updates_before(label))
            for label in plan.learning_rates
        }

    def transform(self) -> optax.GradientTransformation:
        """The optimizer over the whole label tree, with clipping and accumulation.

        Those of phases that differ in nothing but their learning rates are the same object, so
        that their steps are equal and share a program.
        """
        recipe, labels, config = self._plan.recipe, self._plan.labels, self._setup.config
        if recipe.l2_sp:  # It holds the weights.
            return self._built()
        parts = (
            tuple((path, lookup(labels, path)) for path in leaf_paths(labels)),
            tuple((label, self._updates_before(label)) for label in self._shares),
            (self._updates, self._plan.phase.epochs, config.steps.accumulate),
            dataclasses.replace(recipe, rates=Rates(1.0)),
        )
        if parts not in _BUILT:
            if len(_BUILT) >= _MOST_BUILT:
                _BUILT.pop(next(iter(_BUILT)))
            _BUILT[parts] = self._built()
        return _BUILT[parts]

    def _built(self) -> optax.GradientTransformation:
        groups = {label: self._group(label) for label in self._shares}
        return optimizers.wrapped(
            optimizers.build(self._plan.labels, groups),
            self._plan.recipe.clip_norm,
            self._setup.config.steps.accumulate,
        )

    def highest_rates(self) -> np.ndarray:
        """The highest learning rate of every epoch's last update, in the order of the epochs."""
        count = np.arange(1, self._plan.phase.epochs + 1) * self._updates - 1
        counts = {label: count + self._updates_before(label) for label in self._shares}

        @jax.jit  # Compiled as a whole: operation by operation it would be a dozen programs.
        def shares(counts: dict[str, jax.Array]) -> dict[str, jax.typing.ArrayLike]:
            return {label: share(counts[label]) for label, share in self._shares.items()}

        rates = [
            np.float32(self._plan.learning_rates[label]) * np.broadcast_to(share, count.shape)
            for label, share in shares(counts).items()
        ]
        return np.max(rates, axis=0)

    def _group(self, label: str) -> optax.GradientTransformation:
        recipe = self._plan.recipe
        tx = optimizers.transform(
            recipe.optimizer, self._shares[label], recipe.weight_decay, recipe.momentum
        )
        if recipe.l2_sp and not is_head(label):
            start = self._setup.variables["params"]
            tx = optax.chain(optimizers.l2_sp(recipe.l2_sp, start), tx)
        return optax.chain(tx, optimizers.scale_by_peak(label))

    def _updates_before(self, label: str) -> int:
        """Updates that a label's leaves have had before this phase."""
        first = self._setup.plans[first_phase(label)].first_epoch
        return (self._plan.first_epoch - first) * self._updates
