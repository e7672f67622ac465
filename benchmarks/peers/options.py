"""The command line of the peers' trainings, which is that of jtl as far as it goes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


def parse(models: Iterable[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `models` are those that there are, None for any."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, choices=models)
    for name in ("--weights", "--mask"):
        parser.add_argument(name, required=True)
    for name in ("--data", "--out"):
        parser.add_argument(name, required=True, type=Path)
    for name in ("--epochs", "--batch-size", "--image-size"):
        parser.add_argument(name, required=True, type=int)
    parser.add_argument("--lr", required=True, type=float)
    return parser.parse_args()
