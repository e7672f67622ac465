"""Transfer learning as somebody writes it who knows PyTorch and timm well.

Images are decoded and normalized once, by all cores, and stay in memory; channels_last;
frozen params require no gradient and frozen normalizations use their running averages; the
optimizer holds only what trains. Every epoch runs the whole network over all images and is
evaluated, as in the tutorials; no features are kept.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torchvision.datasets import ImageFolder

from peers.options import parse
from peers.pytorch_model import create, training_mode

EVAL_BATCH = 32


def load(folder: Path, transform) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a split, float32 [N, 3, H, W] in channels_last, and labels [N]."""
    files = ImageFolder(str(folder), transform)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examples = list(pool.map(files.__getitem__, range(len(files))))
    images = torch.stack([image for image, _ in examples])
    labels = torch.tensor([label for _, label in examples])
    return images.contiguous(memory_format=torch.channels_last), labels


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images whose class is found."""
    model.eval()
    pairs = zip(images.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True)
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs)
    return hits / len(labels)


def load_backbone(model: torch.nn.Module, path: str) -> None:
    """All params of a checkpoint but its classifier's."""
    own = model.state_dict()
    stored = {k: v for k, v in load_file(path).items() if k in own and v.shape == own[k].shape}
    left = own.keys() - stored.keys()
    assert len(left) == 2, left  # The new head's weight and bias.
    model.load_state_dict(stored, strict=False)


def main() -> None:
    """Trains, and writes a line per epoch."""
    options = parse()
    torch.manual_seed(0)
    classes = len(list((options.data / "train").iterdir()))
    model, frozen = create(options.model, classes, options.mask)
    load_backbone(model, options.weights)
    config = resolve_data_config(model=model)
    config["input_size"] = (3, options.image_size, options.image_size)
    transform = create_transform(**config)
    images, labels = load(options.data / "train", transform)
    val_images, val_labels = load(options.data / "val", transform)
    steps = max(len(labels) // options.batch_size, 1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * steps)
    criterion = torch.nn.CrossEntropyLoss()
    options.out.mkdir(parents=True)
    log = (options.out / "log.jsonl").open("w", encoding="utf-8")
    for epoch in range(1, options.epochs + 1):
        training_mode(model, frozen)
        order = torch.randperm(len(labels)).split(options.batch_size)[:steps]
        for number, rows in enumerate(order):
            optimizer.zero_grad()
            loss = criterion(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            if epoch == 1 and number == 0:
                print(json.dumps({"first_loss": loss.item()}), file=log, flush=True)
        scored = accuracy(model, val_images, val_labels)
        print(json.dumps({"epoch": epoch, "val_accuracy": scored}), file=log, flush=True)
    torch.save(model.state_dict(), options.out / "model.pth")


if __name__ == "__main__":
    main()
