"""`--profile`: a trace of some training steps, for Perfetto and TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from jtl.common.errors import first_line
from jtl.common.progress import Display
from jtl.common.text import counted
from jtl.distributed import processes
from jtl.runs.folder import PROFILE
from jtl.train.trainer import Diverged, Trainer

STEPS = 5
"""Traced, once the step is compiled."""


class ProfilerError(RuntimeError):
    """The profiler could not do its part, as on a full disk or beside another trace."""


def trace_phase(trainer: Trainer, epoch: int, run: Path, display: Display) -> None:
    """Traces a phase if that is asked for, and says where the trace is.

    Args:
        trainer: Of the phase.
        epoch: The next one.
        run: The run's folder.
        display: Told.
    """
    setup = trainer.setup
    if not setup.config.run.profile:
        return
    phase = setup.plans.index(trainer.plan) + 1
    folder = folder_of(run, phase, len(setup.plans))
    try:
        count = trace(trainer, epoch, folder)
    except Diverged:  # As the training will, which tells it with its step.
        return
    except ProfilerError as error:
        display.message(f"profile: could not record a trace; training continues ({error})")
        return
    display.message(
        f"Saved a trace of {counted(count, 'step')} with mask {trainer.plan.phase.mask} to "
        f"'{folder}'; open it in ui.perfetto.dev or TensorBoard"
    )


def trace(trainer: Trainer, epoch: int, folder: Path) -> int:
    """Traces the first steps of an epoch, reading of images included, and takes them back.

    They are taken twice, as the first time compiles; the training finds its state, and the
    compiled programs, as they are. Where an epoch is one program, all of it is traced.

    Args:
        trainer: Of the phase; its state is copied meanwhile.
        epoch: Whose examples are taken, 1-based.
        folder: Where the trace goes, below `plugins/profile` as TensorBoard looks for it;
            `perfetto_trace.json.gz` beside it.

    Returns:
        How many steps are in the trace.

    Raises:
        ProfilerError: There is no trace; all else is as if there were.
    """
    options = jax.profiler.ProfileOptions()
    # Calls of Python's functions would be nine tenths of the events.
    options.python_tracer_level = 0
    before = trainer.state
    try:
        _take(trainer, epoch, before)
        failure = None
        try:
            with _traced():
                jax.profiler.start_trace(
                    folder, create_perfetto_trace=True, profiler_options=options
                )
        except ProfilerError as error:
            failure = error
        try:
            count = _take(trainer, epoch, before)  # Also then: of many processes all take them.
        finally:
            if failure is None:
                with _traced():
                    jax.profiler.stop_trace()
        if failure is not None:
            raise failure
        return count
    finally:
        trainer.state = before


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Its libraries raise many types.
        raise ProfilerError(first_line(error)) from error


def _take(trainer: Trainer, epoch: int, state: object) -> int:
    """Takes steps from a copy of a state, which steps donate, and waits for them."""
    trainer.state = jax.tree.map(jax.numpy.copy, state)
    count = trainer.run_steps(epoch, STEPS)
    jax.block_until_ready(trainer.state)
    return count


def folder_of(run: Path, phase: int, phases: int) -> Path:
    """Where a phase's trace goes: a folder of its own where there are several, or processes.

    Args:
        run: The run's folder.
        phase: Its number, 1-based.
        phases: How many there are.
    """
    folder = run / PROFILE
    if phases > 1:
        folder /= f"phase{phase}"
    return folder / f"process{jax.process_index()}" if processes.is_distributed() else folder
