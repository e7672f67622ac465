"""Does a run that is killed end as the run that was never killed?

    python tests/stress/kill_resume.py                 # 20 kills; some minutes
    python tests/stress/kill_resume.py --kills 100 --seed 7
    python tests/stress/kill_resume.py --smoke         # to see that it works

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
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainings import (
    EPOCHS,
    PHASES,
    command,
    done,
    final_bits,
    lines_of,
    run,
    write_images,
)  # fmt: skip

POLL_SECONDS = 0.001
SAVE_SECONDS = 0.05
"""About as long as a checkpoint of this run is being written."""
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


def resume(again: list[str]) -> None:
    """Goes on with a killed run, by the command that began it; it may have nothing saved yet."""
    run([*again, "--resume"])


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
            resume(arguments)
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
        write_images(data, 72, 32)
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
