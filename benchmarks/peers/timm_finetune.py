"""Fine-tuning of a timm model by timm's recipe for small data, or as PyTorch's tutorial does it.

`--recipe timm` is what timm's own `train.py` does with `--opt adamw --lr 1e-4 --weight-decay 0.05
--warmup-epochs 1 --smoothing 0.1 --sched cosine` and random resized crops and flips. `--recipe
tutorial` is the transfer-learning tutorial of PyTorch: SGD with momentum 0.9 at 1e-3, a tenth after
7 epochs, batches of 4. Both are written for images that stay in memory, and evaluate as the weights
ask. channels_last, batch statistics unless `--bn eval`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import timm
import torch
from timm.data.transforms_factory import create_transform
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from peers.finetune import accuracy, in_memory, load_backbone, options_of, save


def recipe(model: torch.nn.Module, options: Any) -> tuple[Any, Any, torch.nn.Module]:
    """Optimizer, what to call with the number of epochs that have ended, and loss."""
    if options.recipe == "tutorial":
        optimizer = torch.optim.SGD(model.parameters(), lr=options.lr or 1e-3, momentum=0.9)
        steps = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
        return optimizer, lambda _: steps.step(), torch.nn.CrossEntropyLoss()
    optimizer = create_optimizer_v2(model, "adamw", lr=options.lr or 1e-4, weight_decay=0.05)
    cosine = CosineLRScheduler(
        optimizer, options.epochs, warmup_t=1, warmup_lr_init=1e-6, warmup_prefix=True
    )
    return optimizer, cosine.step, torch.nn.CrossEntropyLoss(label_smoothing=0.1)


def main() -> None:
    """Trains, and writes a line per epoch."""
    options = options_of(bn=["train", "eval"], recipe=["timm", "tutorial"])
    began = time.perf_counter()
    torch.manual_seed(options.seed)
    model = timm.create_model(options.model, num_classes=options.classes)
    load_backbone(model, options.weights, options.features)
    model = model.to(memory_format=torch.channels_last)
    size = (3, options.image_size, options.image_size)
    common: dict[str, Any] = dict(
        input_size=size, mean=options.mean, std=options.std, interpolation="bicubic"
    )
    evaluated: Any = create_transform(**common, crop_pct=options.crop_pct)
    scale = (0.35, 1.0) if options.recipe == "timm" else (0.08, 1.0)
    training: Any = create_transform(**common, is_training=True, scale=scale, color_jitter=0)
    train = ImageFolder(str(options.data / "train"), training, loader=in_memory())
    splits = {
        split: DataLoader(ImageFolder(str(options.data / split), evaluated), 64, num_workers=2)
        for split in ("val", "test")
        if (options.data / split).is_dir()
    }
    # Random crops of images that are decoded already.
    batch = options.batch_size if options.recipe == "timm" else 4
    batches = DataLoader(train, batch, shuffle=True, drop_last=True)
    optimizer, schedule, criterion = recipe(model, options)
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for epoch in range(options.epochs):
        epoch_began = time.perf_counter()
        model.train()
        if options.bn == "eval":
            for module in model.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for images, labels in batches:
            optimizer.zero_grad()
            logits = model(images.to(memory_format=torch.channels_last))
            criterion(logits, labels).backward()
            optimizer.step()
        schedule(epoch + 1)
        scores = {split: accuracy(model, loader) for split, loader in splits.items()}
        best = max(best, (scores["val"], scores), key=lambda pair: pair[0])
        line = {"epoch": epoch + 1, **scores, "seconds": time.perf_counter() - began}
        print(json.dumps(line), flush=True)
    ended = time.perf_counter()
    save(
        options.out,
        best[1],
        epochs=options.epochs,
        seconds=ended - began,
        epoch_seconds=ended - epoch_began,
    )


if __name__ == "__main__":
    main()
