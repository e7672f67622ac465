"""Where a run's figures go besides its folder: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from jtl.common.errors import UserError, first_line
from jtl.common.files import replace_text
from jtl.config.run_options import TrackerName


class Tracker(Protocol):
    """One of these places."""

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Takes an epoch's figures, by names such as `val/accuracy`."""
        ...

    def close(self, summary: dict[str, Any]) -> None:
        """Ends; `summary` is that of a finished run, or empty."""
        ...


def check(names: Sequence[TrackerName]) -> None:
    """Makes sure that the libraries are there, before anything is trained.

    Raises:
        UserError: One is not; the message says how to get it.
    """
    for name in names:
        module = _MODULES[name]
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"--log-to {name} needs {module}, which isn't installed. Install it with: pip "
                f"install 'jtl[{name}]', or leave --log-to out."
            )


class Trackers:
    """All that a run reports to. One that fails is told and left out; the run goes on."""

    def __init__(self, trackers: dict[str, Tracker], tell: Callable[[str], None]):
        self._sinks, self._tell = dict(trackers), tell

    def log(self, line: dict[str, Any]) -> None:
        """Takes an epoch's line of `metrics.jsonl`."""
        values = {new: line[key] for key, new in _FIGURES.items() if line.get(key) is not None}
        self._each(lambda tracker: tracker.log(line["epoch"], values))

    def close(self, summary: dict[str, Any]) -> None:
        self._each(lambda tracker: tracker.close(summary))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._sinks.items()):
            try:
                act(tracker)
            # Their libraries raise many types, most of them about the network.
            except Exception as error:
                del self._sinks[name]
                self._tell(f"{name} stopped accepting this run's metrics: {first_line(error)}")


_FIGURES = {
    "train_loss": "train/loss",
    "val_loss": "val/loss",
    "train_accuracy": "train/accuracy",
    "val_accuracy": "val/accuracy",
    "val_map": "val/map",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}
"""From a key of an epoch's line to the name in every tracker."""


@contextlib.contextmanager
def opened(
    names: Sequence[TrackerName],
    folder: Path,
    options: dict[str, Any],
    done: int,
    tell: Callable[[str], None],
) -> Iterator[Trackers]:
    """The trackers of a run, closed at the end; without a summary if they are not closed before.

    Args:
        names: Which.
        folder: The run's.
        options: The run's, by group.
        done: Epochs that were logged before and are kept; 0 of a new run.
        tell: Tells the user.

    Raises:
        UserError: One cannot be opened.
    """
    flat = {key: value for group in options.values() for key, value in group.items()}
    found: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = _KINDS[name](folder, flat, done)
        # As when one is not logged in, or a server cannot be reached.
        except Exception as error:
            Trackers(found, tell).close({})
            raise UserError(
                f"--log-to {name} cannot be opened: {first_line(error)}. {_ADVICE.get(name, '')}"
            ) from error
    trackers = Trackers(found, tell)
    try:
        yield trackers
    finally:
        trackers.close({})


class _TensorBoard:
    """Event files in the run's folder, in `tensorboard/`."""

    def __init__(self, folder: Path, options: dict[str, Any], done: int):
        from tensorboardX import SummaryWriter

        # Epochs after the checkpoint that a run goes on from are trained, and logged, again.
        again = done + 1 if done else None
        # Names hold the second; a run that goes on in the same one must not write over the file.
        suffix = f".after-{done}" if done else ""
        self._writer: Any = SummaryWriter(
            str(folder / "tensorboard"), purge_step=again, filename_suffix=suffix
        )
        told = "\n".join(f"    {name}: {value}" for name, value in options.items())
        self._writer.add_text("options", told, 0)

    def log(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()  # Or nothing would be seen until minutes later.

    def close(self, summary: dict[str, Any]) -> None:
        del summary
        self._writer.close()


class _WandB:
    """A run of Weights & Biases; `WANDB_PROJECT` and its relatives say where."""

    def __init__(self, folder: Path, options: dict[str, Any], done: int):
        wandb = importlib.import_module("wandb")
        again = _remembered(folder, "wandb") if done else None
        self._run: Any = wandb.init(
            dir=str(folder), name=folder.name, config=options, id=again, resume="allow"
        )
        _remember(folder, "wandb", self._run.id)
        self._open = True

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self._run.log(values, step=epoch)

    def close(self, summary: dict[str, Any]) -> None:
        if self._open:
            self._run.summary.update(_scalars(summary))
            self._run.finish(exit_code=0 if summary else 1)
        self._open = False


class _MLflow:
    """A run of MLflow; `MLFLOW_TRACKING_URI` and its relatives say where."""

    def __init__(self, folder: Path, options: dict[str, Any], done: int):
        self._mlflow = mlflow = importlib.import_module("mlflow")
        again = _remembered(folder, "mlflow") if done else None
        self._run = mlflow.start_run(run_id=again, run_name=None if again else folder.name)
        if again is None:
            mlflow.log_params(options)
        _remember(folder, "mlflow", self._run.info.run_id)
        self._open = True

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=epoch)

    def close(self, summary: dict[str, Any]) -> None:
        if self._open:
            figures = {k: float(v) for k, v in _scalars(summary).items() if not isinstance(v, str)}
            self._mlflow.log_metrics(figures)
            self._mlflow.end_run("FINISHED" if summary else "KILLED")
        self._open = False


_KINDS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}
_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
TRACKER_FOLDERS = ("tensorboard", "wandb")
LEFTOVERS = (*TRACKER_FOLDERS, "wandb.json", "mlflow.json")
"""What trackers write into a run's folder."""
_ADVICE = {
    "wandb": "Log in with `wandb login`, or set WANDB_MODE=offline.",
    "mlflow": "Check MLFLOW_TRACKING_URI.",
}


def _scalars(summary: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in summary.items() if isinstance(v, str | int | float)}


def _remember(folder: Path, name: str, identity: str) -> None:
    replace_text(folder / f"{name}.json", json.dumps({"id": identity}) + "\n")


def _remembered(folder: Path, name: str) -> str | None:
    try:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, LookupError):
        return None
