"""Fine-tuning by timm's recipe for small data: AdamW, warm-up, cosine, light augmentation.

What timm's own `train.py` does with `--opt adamw --lr 1e-4 --weight-decay 0.05 --warmup-epochs 1
--smoothing 0.1 --sched cosine`, random resized crops and flips, written for images that stay in
memory. channels_last, batch statistics unless `--bn eval`.
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


def main() -> None:
    """Trains, and writes a line per epoch."""
    options = options_of("--bn", choices=("train", "eval"), default="train")
    began = time.perf_counter()
    torch.manual_seed(options.seed)
    model = timm.create_model(options.model, num_classes=options.classes)
    load_backbone(model, options.weights)
    model = model.to(memory_format=torch.channels_last)
    size = (3, options.image_size, options.image_size)
    common: dict[str, Any] = dict(
        input_size=size, mean=options.mean, std=options.std, interpolation="bicubic"
    )
    evaluated: Any = create_transform(**common, crop_pct=options.crop_pct)
    training: Any = create_transform(**common, is_training=True, scale=(0.35, 1.0), color_jitter=0)
    train = ImageFolder(str(options.data / "train"), training, loader=in_memory())
    splits = {
        split: DataLoader(ImageFolder(str(options.data / split), evaluated), 64, num_workers=2)
        for split in ("val", "test")
        if (options.data / split).is_dir()
    }
    # Random crops of images that are decoded already.
    batches = DataLoader(train, options.batch_size, shuffle=True, drop_last=True)
    optimizer = create_optimizer_v2(model, "adamw", lr=options.lr or 1e-4, weight_decay=0.05)
    schedule = CosineLRScheduler(
        optimizer, options.epochs, warmup_t=1, warmup_lr_init=1e-6, warmup_prefix=True
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for epoch in range(options.epochs):
        epoch_began = time.perf_counter()
        model.train()
        if options.bn == "eval":
            for module in model.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for step, (images, labels) in enumerate(batches):
            schedule.step_update(epoch * len(batches) + step)
            optimizer.zero_grad()
            logits = model(images.to(memory_format=torch.channels_last))
            criterion(logits, labels).backward()
            optimizer.step()
        schedule.step(epoch + 1)
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
