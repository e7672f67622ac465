"""Options of where results go, and what a command does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from jtl.common.errors import UserError
from jtl.common.quantities import whole
from jtl.config import checks, walk

DeviceName = Literal["auto", "cpu", "gpu", "tpu"]
TtaName = Literal["flip", "crops", "flip,crops"]
"""Test-time augmentation: the versions of an image that are averaged."""
TrackerName = Literal["tensorboard", "wandb", "mlflow"]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Output folder, devices, caching, logging.

    Attributes:
        run_dir: Folder for everything the run writes. Default: a new one in runs/.
        resume: Continue the run in --run-dir from its last checkpoint, or start it if there is
            none. So the same command works for the first start and every restart. --resume alone
            means auto; must insists on an existing run. The results of a finished run are printed
            again. Default: off; --run-dir must be new or empty.
        device: Device to train on: cpu, gpu or tpu. Default: the fastest one that JAX finds.
        cache_budget: Memory for cached features, such as 4GB or 500MB; the rest is read from disk
            batch by batch. 0 turns the feature cache off. Default: 40 % of the free memory.
        dry_run: Show what would be trained and how long it would take, then exit.
        seeds: Repeat the training with this many seeds (starting at --seed) on the same validation
            split, and report the median and spread of the results.
        folds: Cross-validation: divide the training images into this many folds, train once without
            each of them, validate on it, and report mean and spread of the results.
        find_lr: Run a learning-rate range test instead of training; plots the loss to lr_finder.png
            and suggests a value for --lr.
        show_batch: Save the first training batch, as the network sees it, to this .png file.
        log_to: Also log the metrics of every epoch to tensorboard (event files in the run's
            folder), wandb (Weights & Biases) or mlflow; separate several with commas. Default: only
            metrics.jsonl.
        profile: Record a trace of some steps of each phase in profile/ in the run's folder, to view
            in Perfetto or TensorBoard (see docs/training.md).
        json: Print the summary as JSON on stdout instead of a table.
        coordinator: HOST:PORT of the first of several processes that train together; that process
            opens the port. Detected automatically on Slurm, Open MPI, Kubernetes and Cloud TPU, as
            are the next two options; see docs/devices.md.
        num_processes: Number of processes that train together.
        process_id: Number of this process, starting at 0.
        config: A YAML file with options, one NAME: VALUE per line (see docs/training.md), or the
            config.json of an earlier run, to train in the same way. Command-line options take
            precedence.
    """

    run_dir: Path | None = None
    resume: Annotated[Literal["never", "auto", "must"], walk.FlagValue("auto")] = "never"
    device: DeviceName = "auto"
    cache_budget: Annotated[str | None, walk.Metavar("SIZE"), checks.size] = None
    dry_run: bool = False
    seeds: Annotated[int, checks.within(1, 1000)] = 1
    folds: Annotated[int, checks.within(1, 1000)] = 1
    find_lr: bool = False
    show_batch: Annotated[Path | None, checks.png] = None
    log_to: tuple[TrackerName, ...] = ()
    profile: bool = False
    json: bool = False
    coordinator: str | None = None
    num_processes: Annotated[int | None, checks.within(1, 2**16)] = None
    process_id: int | None = None
    config: Path | None = None
    # Names of the options that a command line gives, no option itself.
    given: tuple[str, ...] = dataclasses.field(
        default=(), compare=False, metadata={"option": False}
    )

    def check(self) -> None:
        """Checks what the options say together.

        Raises:
            UserError: They do not go together; the message names them.
        """
        if self.config is not None:
            raise UserError("--config works on the command line only; give the options themselves.")
        # Of trainings, trials and rehearsals there is one at a time.
        asked = {"--dry-run": self.dry_run, "--find-lr": self.find_lr, "--seeds": self.seeds > 1}
        asked["--folds"] = self.folds > 1
        flags = [flag for flag, given in asked.items() if given]
        if len(flags) > 1:
            raise UserError(f"{' and '.join(flags)} cannot be combined; use one of them.")
        if (self.find_lr or self.dry_run) and self.resume != "never":
            raise UserError(f"{flags[0]} is for a new training, not for one to --resume.")
        if self.profile and (self.dry_run or self.find_lr):
            raise UserError("--profile needs a real training; leave --dry-run and --find-lr out.")

    def check_processes(self) -> None:
        """Checks the options of a training by many processes.

        Raises:
            UserError: One of them is missing or impossible; the message names it.
        """
        walk.check(self)
        given = {
            "--coordinator": self.coordinator,
            "--num-processes": self.num_processes,
            "--process-id": self.process_id,
        }
        missing = [flag for flag, value in given.items() if value is None]
        if len(missing) == len(given):
            return
        if missing:
            raise UserError(
                f"{' and '.join(missing)} missing: several processes need --coordinator "
                "HOST:PORT, --num-processes N and --process-id (a different one from 0 to N-1 "
                "in each)."
            )
        host, _, port = str(self.coordinator).rpartition(":")
        if not (host and 0 < (whole(port) or 0) < 2**16):
            raise UserError(f"--coordinator must be HOST:PORT, not '{self.coordinator}'.")
        assert self.num_processes is not None
        checks.within(0, self.num_processes - 1)("--process-id", self.process_id)
