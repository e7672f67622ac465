"""`tiny_train.py` where TINY_ROOM pictures of a step have room, and any number is sensible."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from jtl import batch_size, step_memory

if __name__ == "__main__":
    room = int(os.environ["TINY_ROOM"])
    step_memory.free_for_steps = lambda kept=0: room
    step_memory.step_bytes = lambda trainer, count: count
    batch_size.BATCHES = 1
    runpy.run_path(str(Path(__file__).with_name("tiny_train.py")), run_name="__main__")
