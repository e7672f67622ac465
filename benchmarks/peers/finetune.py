"""What the peers' fine-tunings share: the command line, the weights, the accuracy."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file


def options_of(**more: list[str]) -> argparse.Namespace:
    """Reads the command line; a script may have more options: `{name: choices}`, default first."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--model", required=True, help="timm's name")
    for name in ("--weights", "--data", "--out"):
        add(name, required=True, type=Path)
    add("--features", type=Path, help="what the backbone must give, by jtl_features.py")
    for name in ("--epochs", "--image-size"):
        add(name, required=True, type=int)
    add("--batch-size", type=int, default=32)
    add("--seed", type=int, default=0)
    add("--lr", type=float)
    for name in ("--mean", "--std"):
        add(name, type=lambda text: tuple(map(float, text.split(","))), required=True)
    add("--crop-pct", type=float, required=True)
    for name, choices in more.items():
        add(f"--{name}", choices=choices, default=choices[0])
    options = parser.parse_args()
    options.classes = len(list((options.data / "train").iterdir()))
    return options


def load_backbone(model: torch.nn.Module, path: Path, features: Path | None) -> None:
    """All params of a checkpoint but its classifier's.

    Args:
        model: Of timm.
        path: The checkpoint.
        features: What the backbone must give for some images. A network with the same keys but
            another epsilon or padding takes the params without a word and is much worse.
    """
    own = model.state_dict()
    stored = {k: v for k, v in load_file(path).items() if k in own and v.shape == own[k].shape}
    left = {key for key in own.keys() - stored.keys() if "num_batches_tracked" not in key}
    assert len(left) <= 2, left  # The new head's weight and bias; of a bare body none.
    model.load_state_dict(stored, strict=False)
    if features is not None:
        expected = np.load(features)
        model.eval()
        with torch.inference_mode():
            images = torch.from_numpy(expected["images"]).permute(0, 3, 1, 2)
            found = model.forward_features(images).mean((2, 3)).numpy()  # type: ignore[operator]
        np.testing.assert_allclose(found, expected["features"], rtol=1e-3, atol=1e-3)
        model.train()


def in_memory() -> Any:
    """A loader of images that decodes each file once."""

    @functools.cache
    def load(path: str) -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    return load


@torch.inference_mode()
def accuracy(model: torch.nn.Module, batches: Any) -> float:
    """The share of images whose class is found."""
    model.eval()
    hits = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    return float(torch.cat(hits).mean())


def save(path: Path, scores: dict[str, float], **figures: Any) -> None:
    """Writes what was reached."""
    path.write_text(json.dumps({**scores, **figures}) + "\n", encoding="utf-8")
