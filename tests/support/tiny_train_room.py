"""`tiny_train.py` where any batch size is sensible, and each process has room for another.

TINY_ROOM tells, with commas between, for how many images of a step each has.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from jtl.train import batch_size, memory_estimate

if __name__ == "__main__":
    [number] = [word.split("=")[1] for word in sys.argv if word.startswith("--process-id=")]
    room = int(os.environ["TINY_ROOM"].split(",")[int(number)])
    memory_estimate.free_for_steps = lambda kept=0: room
    memory_estimate.step_bytes = lambda trainer, count: count
    batch_size.BATCHES = 1
    runpy.run_path(str(Path(__file__).with_name("tiny_train.py")), run_name="__main__")
