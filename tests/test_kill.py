"""SIGKILL around a phase boundary, in real processes: resumed runs end as the whole one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
import tiny

from jtl import checkpoint


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("kill") / "data", 5, 2, size=32)


def command(pictures: Path, folder: Path) -> list[str]:
    # Lite0 with a trained head in both phases: little to compile, a boundary all the same.
    return [
        *(sys.executable, "-m", "jtl.train", "--data", f"folder:{pictures}", "--image-size", "32"),
        *("--phases", "3,head_only,1e-2;3,head_only,1e-3", "--batch-size", "4"),
        *("--run-dir", str(folder)),
    ]


def run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def final_bits(folder: Path) -> list[bytes]:
    restored = checkpoint.restore(folder, "latest")
    assert restored.epoch == 6
    return [leaf.tobytes() for leaf in jax.tree.leaves(restored.variables)]


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(command(pictures, folder))
    return final_bits(folder)


def boundary_is_logged(folder: Path) -> bool:
    """The phase's last epoch is done, its checkpoint not yet."""
    file = folder / "metrics.jsonl"
    return file.is_file() and len(file.read_text().splitlines()) >= 3


def boundary_is_saved(folder: Path) -> bool:
    """The phase's checkpoint is whole, the next phase begins."""
    return (folder / "checkpoints" / "3" / "_CHECKPOINT_METADATA").is_file()


@pytest.mark.parametrize("moment", [boundary_is_logged, boundary_is_saved])
def test_killed_at_a_phase_boundary(
    pictures: Path, whole: list[bytes], tmp_path: Path, moment: Callable[[Path], bool]
):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(pictures, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not moment(folder):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "summary.json").exists()
    run([sys.executable, "-m", "jtl.train", "--resume", "--run-dir", str(folder)])
    assert final_bits(folder) == whole
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6
