"""What an epoch leaves for a checkpoint, and what a phase goes on from."""

from __future__ import annotations

from typing import Any

import jax

from jtl.common.trees import ParamTree
from jtl.freeze.phase_plan import PhasePlan
from jtl.models.inference import Metrics
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import Snapshot, TemporaryCheckpoint
from jtl.runs.run import Run
from jtl.train.phase_optimizer import PhaseOptimizer
from jtl.train.setup import Setup
from jtl.train.state import init_state
from jtl.train.trainer import PartialEpoch, Trainer, last_step_of


def snapshot_of(epoch: int, trainer: Trainer) -> Snapshot:
    """What an epoch gave, copied to the host: the next step donates the state."""
    variables, opt_state = jax.device_get((trainer.variables(), trainer.state.saved()))
    return Snapshot(epoch, variables, opt_state, trainer.inputs.start)


def start_of(setup: Setup, run: Run) -> tuple[ParamTree, Any, int]:
    """What the first phase that is left starts from.

    Returns:
        The variables; what is to be restored, as `TrainState.saved`, or at a phase's end the
        optimizer's state; and the epoch of these. At a phase's end the variables are those of its
        last step.
    """
    done = len(run.history) if run.resumed_at is None else run.resumed_at.latest
    if not done:
        return setup.start, None, 0
    plan = setup.plan_of(done)
    latest = reading.restore(run.folder, "latest", _saved_shapes(setup, plan))
    if done < plan.last_epoch:
        return latest.saved, latest.opt_state, done
    variables, opt_state = last_step_of(plan, latest.saved, latest.opt_state)
    return variables, setup.sharding.replicate(opt_state), done


def _saved_shapes(setup: Setup, plan: PhasePlan) -> Any:
    """The structure of `TrainState.saved` in a phase, without compute."""
    tx = PhaseOptimizer(setup, plan).transform()

    def begin(variables: ParamTree) -> Any:
        params, stats = plan.trainable_params(variables), plan.live_batch_stats(variables)
        return init_state(params, stats, tx, ema=plan.recipe.ema).saved()

    return jax.eval_shape(begin, setup.start)


def restored_part(run: Run, at: TemporaryCheckpoint, trainer: Trainer) -> PartialEpoch:
    """Brings a trainer to a place within an epoch; what is done of the epoch there."""
    trainer.state, sums = reading.restore_temporary(run.folder, at, trainer.state, Metrics.zero())
    return PartialEpoch(at.batches, sums, at.seconds)
