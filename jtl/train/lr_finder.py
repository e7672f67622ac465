"""`--find-lr`: the learning-rate range test (Smith, arXiv 1506.01186)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.console import Console

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.signals import listening
from jtl.config import walk
from jtl.config.options import Config
from jtl.data.sampler import batches_of
from jtl.distributed import processes
from jtl.runs import plots
from jtl.runs.files import write_json
from jtl.runs.plot_worker import PlotWorker
from jtl.runs.run import claimed_run
from jtl.train import batch_size, loop
from jtl.train.checks import checked
from jtl.train.setup import Setup
from jtl.train.trainer import Trainer

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 120
"""The rates that are tried, from one to the other by equal factors: as in fastai's `lr_find`, which
begins where no optimizer moves anything yet, and ends where the loss of every one has exploded."""
GIVE_UP = 4.0
"""How many times the lowest smoothed loss a loss may be; above, nothing is learnt any more."""
REACH = 3.0
"""Width of the smoothing, in steps."""
PLOT, FILE = "lr_finder.png", "lr_finder.json"


def find_lr(config: Config, display: Display) -> dict[str, Any]:
    """Trains at ever higher learning rates, and suggests the one where the loss falls fastest.

    The rates of all groups rise together: what is told is that of `--lr`. Under `--phases` it is
    the first phase that is looked at.

    Args:
        config: The options; their learning rate and schedule have no effect.
        display: Where progress goes.

    Returns:
        `rates`, `losses` and `smoothed` of the steps, `suggested_lr` (None where the loss never
        fell) and `picture`, the path of the curve.

    Raises:
        UserError: As `jtl.train.fit.fit`.
    """
    config = checked(config)
    # One rate in every step but for what the finder multiplies it by.
    config = walk.replace(config, {"schedule": "constant", "warmup": 0.0})
    with listening(display.message) as stop, claimed_run(config, display.message) as run:
        setup = batch_size.prepared(config, display)
        with PlotWorker() as plotter:
            fit = loop.Training(setup, run, display, stop, plotter)
            rates, losses = _tried(setup, fit, display)
        if not losses:
            raise UserError(
                "the very first loss is NaN or infinite; check the data and the weights."
            )
        smoothed = smooth(losses)
        found = {
            "rates": [float(rate) for rate in rates[: len(losses)]],
            "losses": losses,
            "smoothed": smoothed,
            "suggested_lr": suggest(rates, smoothed),
            "picture": str(run.folder / PLOT),
        }
        if not processes.is_primary():
            return found
        write_json(run.folder / FILE, found)
        mask = setup.plans[0].phase.mask
        plots.draw_lr_finder(
            run.folder / PLOT,
            rates=found["rates"],
            losses=losses,
            smoothed=smoothed,
            suggested=found["suggested_lr"],
            title=f"{setup.config.model.model}, {mask}, {config.train.optimizer}",
        )
    return found


def _tried(setup: Setup, fit: loop.Training, display: Display) -> tuple[np.ndarray, list[float]]:
    """The rates, and the losses of as many of them as were tried."""
    plan, train = setup.plans[0], setup.config.train
    inputs = fit.read_inputs(plan, setup.variables)
    trainer = Trainer(setup, plan, inputs, setup.start)
    assert plan.phase.lr is not None  # Filled in when the phases were planned.
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    labels, losses = inputs.examples["train"].labels, list[float]()
    epoch, batches, balanced = 0, iter(()), train.sampler == "balanced"
    with display.track("finding a learning rate", STEPS, "steps") as advance:
        for rate in rates:
            batch = next(batches, None)
            if batch is None:
                epoch += 1
                order = batches_of(labels, train.batch, train.seed, epoch, balanced=balanced)
                batches = iter(order)
                batch = next(batches)
            losses.append(trainer.try_step(epoch, batch, rate / plan.phase.lr))
            advance(1, f"lr {rate:.1e}, loss {losses[-1]:.3f}")
            if not math.isfinite(losses[-1]):
                losses.pop()
                break
            if losses[-1] > GIVE_UP * min(smooth(losses)):
                break
    return rates, losses


def smooth(losses: list[float]) -> list[float]:
    """The losses under a Gaussian window, which lags behind nothing."""
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / REACH) ** 2)
    return [float(loss) for loss in weights @ np.asarray(losses) / weights.sum(1)]


def suggest(rates: np.ndarray, smoothed: list[float]) -> float | None:
    """The rate before the lowest loss where it falls fastest by the logarithm of the rate.

    Args:
        rates: As tried, by equal factors.
        smoothed: The loss at each, as far as it was tried.

    Returns:
        None where no loss is lower than the first by a hundredth of it.
    """
    if len(smoothed) < 2:
        return None
    lowest = int(np.argmin(smoothed))
    if smoothed[lowest] > 0.99 * smoothed[0]:
        return None
    slopes = np.gradient(smoothed)[: lowest + 1]
    return float(f"{rates[int(np.argmin(slopes))]:.2g}")


def print_found(found: dict[str, Any], console: Console) -> None:
    """The suggestion, and where the curve is."""
    rate = found["suggested_lr"]
    told = f"suggested: --lr {rate:g}"
    if rate is None:
        told = "no learning rate lowered the loss; check the data and the mask"
    console.print(f"{told} (plot: {found['picture']})", markup=False, soft_wrap=True)
