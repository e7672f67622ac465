"""What trials of a search compute, counted before they are trained."""

from __future__ import annotations

import json
from typing import Any

from jtl.config import walk
from jtl.config.options import Config
from jtl.freeze.cut import trainable
from jtl.freeze.phase_plan import PhasePlan, plan_phases
from jtl.search.cost import Work
from jtl.train import dry_run, flops
from jtl.train.automatic import augmented, chosen
from jtl.train.checks import checked
from jtl.train.setup import Setup, phases_of

_OF_RATES = ("lr", "head_lr_mult")
"""Options that leave the compiled step as it is."""


class Workload:
    """Counts what trials compute, on the data and with the network of all of them."""

    def __init__(self, setup: Setup, base: Config):
        """Takes a training of the data with the network, and what all trials have in common."""
        self._setup, self._base = setup, base
        self._flops: dict[Any, flops.Flops] = {}
        self._cached: set[Any] = set()

    def of(self, options: dict[str, Any], *, alone: bool = False) -> tuple[Work, int]:
        """What a trial computes, and its epochs.

        Args:
            options: Options of `jtl train` that differ from those of all trials.
            alone: Whether no features are cached that earlier trials have computed.

        Raises:
            UserError: They cannot be trained with.
        """
        setup, (config, plans) = self._setup, self._planned(options)
        solved = config.train.solver == "lbfgs"
        scale = (self._size(config) / setup.inputs.device.size) ** 2
        train, val = len(setup.dataset.train), len(setup.dataset.val)
        views = config.data.cache_views or 1
        whole = len(setup.model.units())
        features, epoch, share = 0.0, 0.0, 0.0
        for plan in plans:
            start = self._start(config, plan)
            counted = self._count(plan, start)
            known = not alone and start is not None and self._key(config, start) in self._cached
            if start is not None and not known:
                features += scale * counted.prefix * (train * views + val)
            if not solved:
                each = counted.step * train + counted.forward * val
                epoch += scale * each * plan.phase.epochs
                paths = [unit.path for unit in setup.model.units()]
                runs = whole - (0 if start is None else paths.index(start))
                share = max(share, runs / whole)
        epochs = 0 if solved else plans[-1].last_epoch
        program = json.dumps({k: v for k, v in options.items() if k not in _OF_RATES})
        cached = all(self._start(config, plan) is not None for plan in plans)
        return Work(features, epoch / max(epochs, 1), share, cached, program), epochs

    def trained(self, options: dict[str, Any]) -> None:
        """Notes that a trial's features are cached from now on."""
        config, plans = self._planned(options)
        starts = [self._start(config, plan) for plan in plans]
        self._cached |= {self._key(config, start) for start in starts if start is not None}

    def _planned(self, options: dict[str, Any]) -> tuple[Config, tuple[PhasePlan, ...]]:
        setup = self._setup
        config = augmented(checked(walk.replace(self._base, options)))
        config = chosen(config, setup.variables)
        plans = plan_phases(
            phases_of(config, setup.model),
            setup.variables["params"],
            setup.model.units(),
            bn=config.train.bn,
            translate=lambda path: path,
        )
        return config, plans

    def _size(self, config: Config) -> int:
        return config.data.image_size or self._setup.inputs.device.size

    def _start(self, config: Config, plan: PhasePlan) -> str | None:
        """The unit that steps begin with, None for the first."""
        if config.augment.resolved().random and config.data.cache_views is None:
            return None
        return plan.cut.features_at

    def _key(self, config: Config, start: str) -> Any:
        return start, self._size(config), config.augment.resolved(), config.data.cache_views

    def _count(self, plan: PhasePlan, start: str | None) -> flops.Flops:
        key = (plan.phase.mask, start)
        if key not in self._flops:
            setup = self._setup
            self._flops[key] = flops.count(
                setup.model,
                setup.variables,
                setup.inputs.device.size,
                trainable(plan.labels),
                start,
            )
        return self._flops[key]

    def closing(self) -> float:
        """Operations of scoring the test images."""
        test = self._setup.dataset.test
        return 0.0 if test is None else self._forward() * len(test)

    def measured_rate(self) -> float:
        """Operations a second of inference, from a few images."""
        batch = min(self._base.train.batch, len(self._setup.dataset.train))
        return self._forward() / dry_run.forward_seconds(self._setup, batch, None)

    def _forward(self) -> float:
        setup = self._setup
        size = setup.inputs.device.size
        return flops.count(setup.model, setup.variables, size, lambda _: False).forward


class Workloads:
    """Counts what trials compute with one of several networks."""

    def __init__(self, each: dict[str, Workload]):
        """Takes what counts for every backbone, that of trials that name none first."""
        self._each, self._first = each, next(iter(each))

    def of(self, options: dict[str, Any], *, alone: bool = False) -> tuple[Work, int]:
        """As of `Workload`."""
        return self[options].of(options, alone=alone)

    def trained(self, options: dict[str, Any]) -> None:
        """As of `Workload`."""
        self[options].trained(options)

    def __getitem__(self, options: dict[str, Any]) -> Workload:
        return self._each[options.get("model", self._first)]
