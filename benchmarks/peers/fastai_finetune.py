"""fastai as its book does it: `vision_learner`, `lr_find`, `fine_tune`."""

# fastai is no package of the project's own environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import time

import torch
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    set_seed,
    vision_learner,
)

from peers.finetune import load_backbone, options_of, save


class EpochTimes(Callback):
    """When each epoch has ended, its validation included."""

    def before_fit(self) -> None:
        self.times = [*getattr(self, "times", []), time.perf_counter()]

    def after_epoch(self) -> None:
        self.times.append(time.perf_counter())


def main() -> None:
    """Trains, and writes what the last epoch reached: `fine_tune` keeps no other."""
    options = options_of()
    began = time.perf_counter()
    set_seed(options.seed, reproducible=True)
    size = options.image_size
    loaders = ImageDataLoaders.from_folder(
        options.data,
        valid="val",
        item_tfms=Resize(round(size / options.crop_pct)),
        batch_tfms=[
            *aug_transforms(size=size, min_scale=0.75),
            Normalize.from_stats(options.mean, options.std),
        ],
        bs=options.batch_size,
        num_workers=2,
    )
    learner = vision_learner(
        loaders, options.model, pretrained=False, normalize=False, metrics=accuracy
    )
    load_backbone(learner.model[0].model, options.weights, options.features)
    rate = options.lr or learner.lr_find(show_plot=False).valley
    times = EpochTimes()
    with learner.no_bar():
        learner.fine_tune(options.epochs, rate, cbs=times)
    scores = {"val": float(learner.validate()[1])}
    if (options.data / "test").is_dir():
        tested = loaders.test_dl(get_image_files(options.data / "test"), with_labels=True)
        scores["test"] = float(learner.validate(dl=tested)[1])
    seconds = time.perf_counter() - began
    save(
        options.out,
        scores,
        epochs=options.epochs,
        lr=float(rate),
        seconds=seconds,
        epoch_seconds=times.times[-1] - times.times[-2],
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
