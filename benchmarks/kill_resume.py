"""Does a run that is killed end as the run that was never killed?

    python benchmarks/kill_resume.py                 # 20 kills; some minutes
    python benchmarks/kill_resume.py --kills 100 --seed 7
    python benchmarks/kill_resume.py --smoke         # to see that it works

Trains twice to the end: four phases, head and last stage by turns, with accumulated gradients and a
moving average. Then trains again and again, each time ended by SIGKILL at another moment, and goes
on with `--resume`. Two facts tell where a kill hit: the place, in an epoch or at a change of
phases, from the last epoch's end to the next one's; and what was being written meanwhile, as saves
go on in the background. The moments are drawn by turns: each place while nothing is written, each
epoch being as likely and each moment of it; in the midst of a save; and in the midst of a save
within an epoch, by a run that saves after each epoch, and within epochs as often as the disk takes
it. What was missed, as on a slow disk that is always being written to, is drawn again, until all
have been hit or three times as many runs have been begun as kills are wanted. At the end every
run's checkpoints, the optimizer's state included, and its figures are held against the first run's,
bit for bit. Exits 1 if one differs, and where no kill hit one of these, as nothing is shown then.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import datasets

PHASES, EPOCHS = 4, 2
"""Of the run, and of each phase; a checkpoint is saved after each."""
POLL_SECONDS = 0.001
SAVE_SECONDS = 0.05
"""About as long as a checkpoint of this run is being written."""
OFTEN = """
import runpy
from jtl.runs import checkpoint, midway
checkpoint.CHECKPOINT_SECONDS, midway.SHARE = 0.0, float("inf")
runpy.run_module("jtl.train", run_name="__main__", alter_sys=True)
"""
"""Trains, and saves as often as the disk takes it."""
TIMES = ("seconds", "images_per_second", "elapsed")
"""What no two runs have in common of an epoch's figures."""
TRAINING, CHANGING, FINISHING = "in an epoch", "changing phases", "finishing"
"""Places in a run; the last from the end of all epochs to the summary."""
SAVING, WITHIN = "saving", "saving within an epoch"
"""What may go on at any place."""
KINDS = (TRAINING, SAVING, CHANGING, WITHIN)
"""What kills must have hit, the places while nothing was saved."""
MOST = 3
"""As many runs as this for each kill that was asked for may be begun to hit every kind."""


@dataclasses.dataclass(frozen=True)
class Killed:
    """Where a run stood when it was killed."""

    epochs: int
    checkpoints: tuple[int, ...]
    saving: bool
    within: tuple[int, ...] = ()
    saving_within: bool = False

    @property
    def place(self) -> str:
        """`TRAINING`, `CHANGING` or `FINISHING`."""
        if self.epochs == PHASES * EPOCHS:
            return FINISHING
        return CHANGING if self.epochs and self.epochs % EPOCHS == 0 else TRAINING

    @property
    def saves(self) -> tuple[str, ...]:
        """What was under way of `SAVING` and `WITHIN`."""
        return (SAVING,) * self.saving + (WITHIN,) * self.saving_within

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those of `KINDS` that it hit."""
        return self.saves or tuple(kind for kind in KINDS if kind == self.place)

    def __str__(self) -> str:
        """In a few words."""
        saved = ", ".join(map(str, self.checkpoints)) or "none"
        within = f" and step {max(self.within)}" if self.within else ""
        doing = ", ".join((self.place, *self.saves))
        return f"{doing}; {self.epochs} epochs done, saved: {saved}{within}"


def program(*, often: bool = False) -> list[str]:
    """`python -m jtl.train`, which may save more often."""
    return [sys.executable, *(("-c", OFTEN) if often else ("-m", "jtl.train"))]


def command(data: Path, folder: Path, *, smoke: bool = False, often: bool = False) -> list[str]:
    """A training of four phases."""
    # Augmented images take heads through epochs step by step.
    augment = ("--augment", "light") if smoke and often else ()
    masks = ("head_only", "head_only" if smoke else "last_stage")
    phases = ";".join(f"{EPOCHS},{masks[i % 2]},1e-{2 + i % 2}" for i in range(PHASES))
    return [
        *(*program(often=often), "--data", f"folder:{data}", "--image-size", "32"),
        *("--phases", phases, "--batch-size", "4", "--ema", "0.9", "--accumulate", "2"),
        *("--run-dir", str(folder), *augment),
    ]


def run(arguments: list[str]) -> None:
    """A process that must end well."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The figures of the epochs that are done; a line that is being written is none."""
    metrics = folder / "metrics.jsonl"
    text = metrics.read_text(encoding="utf-8") if metrics.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def done(folder: Path) -> int:
    """How many epochs are done."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def state_of(folder: Path) -> Killed:
    """Where a run stands, by what its folder holds."""
    return Killed(done(folder), *_saved(folder / "checkpoints"), *_saved(folder / "midway"))


def _saved(kept: Path) -> tuple[tuple[int, ...], bool]:
    """The checkpoints in a folder, and whether one is being written."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):  # The run may be removing it.
        names = [path.name for path in kept.iterdir()]
    saved = tuple(sorted(int(name) for name in names if name.isdecimal()))
    return saved, any("orbax-checkpoint-tmp" in name for name in names)


def killed(arguments: list[str], folder: Path, moment: Callable[[], bool]) -> Killed | None:
    """Starts a run and ends it by SIGKILL as soon as `moment`; None if it ended before."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not moment():
        if process.poll() is not None:
            return None
        time.sleep(POLL_SECONDS)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (folder / "summary.json").exists():
        return None
    return state_of(folder)


def later(reached: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """A moment so long after `reached` is true for the first time."""
    began: float | None = None

    def due() -> bool:
        nonlocal began
        if began is None and reached():
            began = time.monotonic()
        return began is not None and time.monotonic() - began >= seconds

    return due


def in_epoch(folder: Path, epoch: int, seconds: float) -> Callable[[], bool]:
    """A moment so long after the beginning of an epoch, from 1 on."""
    if epoch == 1:
        return later((folder / "config.json").is_file, seconds)
    return later(lambda: done(folder) >= epoch - 1, seconds)


def in_save(kept: Path, number: int, seconds: float) -> Callable[[], bool]:
    """A moment so long after a run began to write checkpoint `number`, from 1 on, in a folder."""
    seen: set[str] = set()

    def begun() -> bool:
        found = kept.glob("*.orbax-checkpoint-tmp*")
        seen.update(path.name.partition(".")[0] for path in found)
        return len(seen) >= number

    return later(begun, seconds)


def drawn(kind: str, folder: Path, lasted: list[float], draw: random.Random) -> Callable[[], bool]:
    """A moment of a kind: the first of that kind from a time on that is drawn at random.

    Args:
        kind: One of `KINDS`.
        folder: Of the run that is to be killed.
        lasted: Seconds of each epoch of the whole run, with what came before it in its phase.
        draw: Random numbers.
    """
    begins = range(EPOCHS + 1, len(lasted), EPOCHS)
    within = [epoch for epoch in range(1, len(lasted) + 1) if epoch not in begins]
    # Heads whose features are kept go through the epochs of every other phase in one dispatch.
    by_steps = [epoch for begin in begins[::2] for epoch in range(begin, begin + EPOCHS)]
    if kind == SAVING:
        number, seconds = draw.randint(1, PHASES), draw.uniform(0.0, SAVE_SECONDS)
        reached = in_save(folder / "checkpoints", number, seconds)
    else:
        epochs = {TRAINING: within, CHANGING: begins, WITHIN: by_steps}[kind]
        epoch = draw.choice(epochs)
        reached = in_epoch(folder, epoch, draw.uniform(0.0, lasted[epoch - 1]))
    return lambda: reached() and kind in state_of(folder).kinds


def resume(folder: Path, again: list[str], *, often: bool = False) -> None:
    """Goes on with a killed run; one that has not begun to write is started again."""
    if (folder / "config.json").is_file():
        run([*program(often=often), "--resume", "--run-dir", str(folder)])
    else:
        run(again)


def final_bits(folder: Path) -> dict[str, Any]:
    """What a run has come to.

    Returns:
        The arrays of its best and its latest checkpoint, the optimizer's of the latter among them,
        as bytes; and the figures of all epochs, without times.
    """
    import jax
    import orbax.checkpoint as ocp

    from jtl.runs import checkpoint

    found: dict[str, Any] = {
        "figures": [{k: v for k, v in line.items() if k not in TIMES} for line in lines_of(folder)]
    }
    for which in ("best", "latest"):
        restored = checkpoint.restore(folder, which)
        found[f"{which} epoch"] = restored.epoch
        found[which] = [leaf.tobytes() for leaf in jax.tree.leaves(restored.variables)]
    kept = folder / checkpoint.FOLDER / str(found["latest epoch"]) / "opt_state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(kept.absolute())
    found["optimizer"] = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return found


def trial(
    data: Path, scratch: Path, kills: int, seed: int, *, smoke: bool = False
) -> list[tuple[Killed, bool]]:
    """Kills and resumes runs.

    Returns:
        For each kill, where the run stood and whether it ended with the bits of the whole one.

    Raises:
        SystemExit: A run failed, runs end before they can be killed, or they differ anyway.
    """
    whole, again = scratch / "whole", scratch / "again"
    for folder in (whole, again):
        run(command(data, folder, smoke=smoke))
    wanted = final_bits(whole)
    if final_bits(again) != wanted:
        raise SystemExit("two runs that nobody kills end differently already")
    # The first one compiled what the others find.
    ends = [0.0, *(line["elapsed"] for line in lines_of(again))]
    lasted = [end - begin for begin, end in itertools.pairwise(ends)]
    draw, results = random.Random(seed), []
    # Heads whose features are kept go through epochs in one dispatch.
    left = [kind for kind in KINDS if not (smoke and kind == WITHIN)]
    for attempt in range(10 * kills):
        if len(results) >= kills:
            left = missed(results, left)
            if not left or smoke or attempt >= MOST * kills:
                return results
        kind, folder = left[attempt % len(left)], scratch / f"killed-{attempt}"
        arguments = command(data, folder, smoke=smoke, often=kind == WITHIN)
        state = killed(arguments, folder, drawn(kind, folder, lasted, draw))
        if state is not None:
            resume(folder, arguments, often=kind == WITHIN)
            same = final_bits(folder) == wanted
            results.append((state, same))
            print(f"{len(results):3}: {state}: {'equal' if same else 'DIFFERENT'}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(f"of {10 * kills} runs only {len(results)} could be killed before their end")


def missed(results: list[tuple[Killed, bool]], kinds: Sequence[str] = KINDS) -> list[str]:
    """The kinds that no kill hit."""
    hit = {kind for state, _ in results for kind in state.kinds}
    return [kind for kind in kinds if kind not in hit]


def told(results: list[tuple[Killed, bool]]) -> str:
    """How many kills hit what."""
    states, parts = [state for state, _ in results], []
    for place in (TRAINING, CHANGING, FINISHING):
        at = [state for state in states if state.place == place]
        parts.append(f"{len(at)} {place} ({sum(not state.saves for state in at)} with no save)")
    saves = (f"{sum(save in state.saves for state in states)} {save}" for save in (SAVING, WITHIN))
    differ = sum(not same for _, same in results)
    return f"{len(results)} kills: {', '.join((*parts, *saves))}; {differ} ended differently"


def main() -> int:
    """The exit code: 1 if a resumed run is not the whole one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="3 kills, heads only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jtl-kill-") as scratch:
        data = Path(scratch, "images")
        datasets.generate(data, 72, 32)
        kills = len(KINDS) - 1 if options.smoke else options.kills
        results = trial(data, Path(scratch), kills, options.seed, smoke=options.smoke)
    print(told(results))
    # So few cannot hit all.
    lacking = missed(results) if len(results) >= len(KINDS) else []
    if lacking:
        print(f"no run was killed {' or '.join(lacking)}: try more --kills, another --seed")
    return 1 if lacking or not all(same for _, same in results) else 0


if __name__ == "__main__":
    sys.exit(main())
