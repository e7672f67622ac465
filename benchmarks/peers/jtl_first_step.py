"""`python -m jtl.train`, which also writes a line to a file when its first step has ended.

python benchmarks/peers/jtl_first_step.py FILE OPTIONS_OF_JTL_TRAIN...

Under `head_only` with features in memory an epoch's steps are one dispatch, and the line comes
after it.
"""

from __future__ import annotations

if __name__ == "__main__":
    from jtl.common import huge_pages

    huge_pages.restart_with_huge_pages()  # As jtl.train does it: before the slow imports.

import runpy
import sys
from pathlib import Path
from typing import Any


class Watched:
    """A compiled step that tells of its first result; else as it was."""

    def __init__(self, step: Any, path: Path):
        self._step = step
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """One step."""
        result = self._step(*args, **options)
        if not self._path.exists():
            import jax

            jax.block_until_ready(result)
            self._path.write_text("first step\n", encoding="utf-8")
        return result


if __name__ == "__main__":
    from jtl.train import step as steps

    path = Path(sys.argv.pop(1))
    for name in ("train_step", "train_epoch"):
        setattr(steps, name, Watched(getattr(steps, name), path))
    runpy.run_module("jtl.train", run_name="__main__", alter_sys=True)
