"""Where the parts of the checkout are, and what may lie beside it."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
BENCHMARKS = ROOT / "benchmarks"
DOCS = ROOT / "docs"
SUPPORT = TESTS / "support"
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real images; not part of the checkout."""
