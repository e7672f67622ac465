"""Does a run that is killed end as the run that was never killed?

    python benchmarks/kill_resume.py                 # 20 kills; some minutes
    python benchmarks/kill_resume.py --kills 100 --seed 7
    python benchmarks/kill_resume.py --smoke         # to see that it works

Trains once to the end: four phases, head and last stage by turns, with accumulated gradients and a
moving average. Then trains again and again, each time ended by SIGKILL at another moment, and goes
on with `--resume`. Half of the moments are drawn evenly from the time between the first finished
epoch and the end; half lie in the midst of a save, each drawn among those of the run. At the end
every run's last checkpoint is held against the first run's, bit for bit. Exits 1 if one differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import pictures

SAVES = 4
"""Checkpoints of the run, one for each phase."""
POLL_SECONDS = 0.001


@dataclasses.dataclass(frozen=True)
class Killed:
    """Where a run stood when it was killed."""

    epochs: int
    checkpoints: tuple[int, ...]
    saving: bool

    def __str__(self) -> str:
        """In a few words."""
        saved = ", ".join(map(str, self.checkpoints)) or "none"
        return f"{self.epochs} epochs done, saved: {saved}" + (", saving" if self.saving else "")


def command(data: Path, folder: Path, *, smoke: bool = False) -> list[str]:
    """A training of four phases."""
    masks = ("head_only", "head_only" if smoke else "last_stage")
    phases = ";".join(f"2,{masks[index % 2]},1e-{2 + index % 2}" for index in range(SAVES))
    return [
        *(sys.executable, "-m", "jtl.train", "--data", f"folder:{data}", "--image-size", "32"),
        *("--phases", phases, "--batch-size", "4", "--ema", "0.9", "--accumulate", "2"),
        *("--run-dir", str(folder)),
    ]


def run(arguments: list[str]) -> None:
    """A process that must end well."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")


def state_of(folder: Path) -> Killed:
    """Where a run stands, by what its folder holds."""
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    kept = folder / "checkpoints"
    names = [path.name for path in kept.iterdir()] if kept.is_dir() else []
    saved = tuple(sorted(int(name) for name in names if name.isdecimal()))
    return Killed(len(lines), saved, any("orbax-checkpoint-tmp" in name for name in names))


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


def after(folder: Path, seconds: float) -> Callable[[], bool]:
    """A moment so long after the first epoch."""
    began = None

    def due() -> bool:
        nonlocal began
        if began is None and (folder / "metrics.jsonl").is_file():
            began = time.monotonic()
        return began is not None and time.monotonic() - began >= seconds

    return due


def in_save(folder: Path, number: int, seconds: float) -> Callable[[], bool]:
    """A moment so long after the run began to write its checkpoint `number`, from 1 on."""
    seen: set[str] = set()
    began = None

    def due() -> bool:
        nonlocal began
        if began is None:
            found = (folder / "checkpoints").glob("*.orbax-checkpoint-tmp*")
            seen.update(path.name.partition(".")[0] for path in found)
            began = time.monotonic() if len(seen) >= number else None
        return began is not None and time.monotonic() - began >= seconds

    return due


def resume(folder: Path, again: list[str]) -> None:
    """Goes on with a killed run; one that has not begun to write is started again."""
    if (folder / "config.json").is_file():
        run([sys.executable, "-m", "jtl.train", "--resume", "--run-dir", str(folder)])
    else:
        run(again)


def final_bits(folder: Path) -> list[bytes]:
    """The arrays of a run's latest checkpoint."""
    import jax

    from jtl import checkpoint

    restored = checkpoint.restore(folder, "latest")
    return [
        str(restored.epoch).encode(),
        *(x.tobytes() for x in jax.tree.leaves(restored.variables)),
    ]


def trial(
    data: Path, scratch: Path, kills: int, seed: int, *, smoke: bool = False
) -> list[tuple[Killed, bool]]:
    """Kills and resumes runs.

    Returns:
        For each kill, where the run stood and whether it ended with the bits of the whole one.
    """
    whole = scratch / "whole"
    run(command(data, whole, smoke=smoke))
    wanted = final_bits(whole)
    began = (whole / "config.json").stat().st_mtime
    seconds = (whole / "summary.json").stat().st_mtime - began
    draw, results = random.Random(seed), []
    while len(results) < kills:
        folder = scratch / f"killed-{len(results)}"
        if len(results) % 2:
            moment = in_save(folder, draw.randint(1, SAVES), draw.uniform(0.0, 0.05))
        else:
            moment = after(folder, draw.uniform(0.0, seconds))
        arguments = command(data, folder, smoke=smoke)
        state = killed(arguments, folder, moment)
        if state is not None:
            resume(folder, arguments)
            same = final_bits(folder) == wanted
            results.append((state, same))
            print(
                f"{len(results):3}/{kills}: {state}: {'equal' if same else 'DIFFERENT'}", flush=True
            )
        shutil.rmtree(folder)
    return results


def main() -> int:
    """The exit code: 1 if a resumed run is not the whole one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="2 kills, heads only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jtl-kill-") as scratch:
        data = Path(scratch, "pictures")
        pictures.generate(data, 72, 32)
        kills = 2 if options.smoke else options.kills
        results = trial(data, Path(scratch), kills, options.seed, smoke=options.smoke)
    differ = sum(not same for _, same in results)
    saving = sum(state.saving for state, _ in results)
    print(f"{len(results)} kills, {saving} of them while saving; {differ} ended differently")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
