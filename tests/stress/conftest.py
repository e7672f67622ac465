"""What disturbs trainings here disturbs those of users: their programs are optimized."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.programs import QUICK_COMPILE


@pytest.fixture(autouse=True, scope="module")
def _compiled_as_for_users() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("XLA_FLAGS") == QUICK_COMPILE:
            patch.delenv("XLA_FLAGS")
        yield
