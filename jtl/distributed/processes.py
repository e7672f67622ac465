"""Many processes that train one model together (`jax.distributed`), and what they agree on.

All run the same program on the same batches. What only one of them knows (its clock, its free
memory, a signal, an error) must not decide by itself what the program does next: the processes
would wait for each other in different places, for ever.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from jtl.common import progress
from jtl.common.errors import UserError
from jtl.common.quantities import whole

HEARTBEAT_SECONDS = 20
"""After how long without a sign of life a process counts as dead; the others stop then."""
JOIN_SECONDS = 300
"""How long a process waits for the others at the start."""
SHUTDOWN_SECONDS = 60
"""How long it waits for them at the end."""
_TEXT_BYTES = 4096
_ending = threading.Event()

_Result = TypeVar("_Result")


def expected(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this is one of several processes.

    It is looked for what JAX's own detection reads: Slurm's, Open MPI's, Kubernetes' and Cloud
    TPU's variables, and JAX_COORDINATOR_ADDRESS.
    """
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return True
    # An allocation without a step of its own, such as a shell on a login node, has no node list.
    if "SLURM_STEP_NODELIST" in environment and _many(environment.get("SLURM_NTASKS")):
        return True
    if "OMPI_MCA_orte_hnp_uri" in environment and _many(environment.get("OMPI_COMM_WORLD_SIZE")):
        return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return True
    return len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1


def _many(number: str | None) -> bool:
    return (whole(number or "") or 0) > 1


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> bool:
    """Makes this process one of several, if it is to be; before anything is computed.

    Args:
        coordinator: HOST:PORT of the first process; None for what the environment says.
        num_processes: How many there are, as with the others None for what it says.
        process_id: This one's number, from 0 on.

    Returns:
        Whether it is one of several from now on.

    Raises:
        UserError: The others are not there within `JOIN_SECONDS`, or it is not known who they are.
    """
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given) and not expected(os.environ):
        return False
    import jax

    try:
        jax.distributed.initialize(
            *given,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of this run could not connect: {str(error).strip()}\n"
            "Start the same command in each, with --coordinator HOST:PORT of the first one, "
            "--num-processes N and --process-id 0 to N-1; or use a launcher that JAX knows "
            "(Slurm, Open MPI, Kubernetes, Cloud TPU)."
        ) from error
    if not is_primary():
        progress.silence()
    return is_distributed()


def is_distributed() -> bool:
    return _count() > 1


def _count() -> int:
    # Commands that do without JAX, which takes long to import, go on without it.
    jax = sys.modules.get("jax")
    return jax.process_count() if jax is not None and jax.distributed.is_initialized() else 1


def is_primary() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return not is_distributed() or sys.modules["jax"].process_index() == 0


def all_gather(values: list[float]) -> np.ndarray:
    """What each process says: float32 [processes, n], the same for all; waits for all."""
    row = np.asarray(values, np.float32)
    if not is_distributed():
        return row[None]
    from jax.experimental import multihost_utils  # What no single process needs.

    return np.asarray(multihost_utils.process_allgather(row)).reshape(-1, len(values))


def all_agree(answer: bool) -> bool:
    """Whether every process says yes."""
    return bool(all_gather([answer]).all())


def broadcast_text(text: str) -> str:
    """The text that the first process gives, in every process."""
    if not is_distributed():
        return text
    from jax.experimental import multihost_utils

    encoded = text.encode("utf-8", "surrogateescape")[:_TEXT_BYTES]
    padded = np.zeros(_TEXT_BYTES, np.uint8)
    padded[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)
    return sent.tobytes().rstrip(b"\0").decode("utf-8", "surrogateescape")


def run_together(work: Callable[[], _Result]) -> _Result:
    """Does what may fail in one process but not in another, such as reading files.

    Raises:
        UserError: It failed in another process, whose own message says why.
    """
    if not is_distributed():
        return work()
    try:
        result = work()
    except Exception:
        all_gather([1])
        # Until the others have it, and stop: then this fails.
        with contextlib.suppress(Exception):
            all_gather([1])
        raise
    failed = np.flatnonzero(all_gather([0])[:, 0])
    if len(failed):
        told = ", ".join(str(number) for number in failed)
        raise UserError(f"process {told} of {_count()} cannot continue; its own message says why.")
    return result


def shut_down_together() -> None:
    """Notes that all processes end now, for a reason that each of them knows."""
    _ending.set()


def wait_for_shutdown() -> None:
    """Waits for the other processes, where all end: while the first is there, none is lost."""
    if is_distributed() and _ending.is_set():
        with contextlib.suppress(Exception):  # One of them may have been killed in the meantime.
            sys.modules["jax"].distributed.shutdown()


PEER_FAILURE = (
    "another process of this run has stopped or can no longer be reached; its own message, if "
    "any, says why. The last checkpoint is saved: start all processes again with --resume; "
    "their number may change."
)
"""What to say where `is_peer_failure`."""
_SIGNS = ("Gloo", "NCCL", "coordination service", "CoordinationService", "heartbeat")


def is_peer_failure(error: BaseException) -> bool:
    """Whether an error means that another process is gone."""
    return is_distributed() and any(sign in str(error) for sign in _SIGNS)
