"""Every option of a training run."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jtl.common.errors import UserError
from jtl.common.quantities import parse_bytes
from jtl.config import checks, walk
from jtl.config.augment import Augment, AugmentConfig
from jtl.config.data import DataConfig, with_scheme
from jtl.config.model import ModelConfig
from jtl.config.run_options import RunConfig
from jtl.config.training import MULTILABEL_METRICS, StepsConfig, TrainConfig

_NEWER = ("augment", "steps")
"""Areas that the oldest runs have not."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains an image classifier from pretrained weights.

    For example:
      jtl train --data my-images --run-dir runs/mine
      jtl train --data my-images --mask last_stage --dry-run

    my-images holds train/CLASS/*.jpg and, if you like, val/ and test/. Without any options,
    jtl runs a demo: it trains a new classifier for handwritten digits on top of a pretrained
    EfficientNet-Lite0, whose own layers stay as they are (frozen).
    Results go to stdout, progress to stderr, everything else to the run's folder.
    """

    SHORT_HELP: ClassVar[tuple[str, ...]] = (
        "data", "model", "mask", "epochs", "lr", "batch_size", "image_size", "augment", "device",
        "run_dir", "resume", "dry_run",
    )  # fmt: skip
    """What the short help explains."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
    augment: AugmentConfig = AugmentConfig()
    steps: StepsConfig = StepsConfig()

    @property
    def split_seed(self) -> int:
        """What decides the validation split."""
        return self.train.seed if self.data.split_seed is None else self.data.split_seed

    def noting(self, given: tuple[str, ...]) -> Config:
        """The same, knowing the names of the options that were given, also as by default.

        Args:
            given: The names.

        Returns:
            The configuration; a plain path of the data has its scheme.
        """
        run = dataclasses.replace(self.run, given=given)
        data = dataclasses.replace(self.data, data=with_scheme(self.data.data))
        return dataclasses.replace(self, run=run, data=data)

    def check(self) -> Config:
        """Checks every option that needs no model and no data.

        Returns:
            The same.

        Raises:
            UserError: A value is impossible, or two do not go together; the message names them.
        """
        walk.check(self)
        for area in (self.model, self.data, self.train, self.run):
            area.check()
        self.steps.check(self.train)
        checks.seed("--seeds with --seed", self.train.seed + self.run.seeds - 1)
        augment = self.augment.resolved()
        if self.model.head_batch_norm and self.train.batch_size == 1:
            raise UserError(
                "--head-batch-norm normalizes over the images of a batch, so --batch-size 1 "
                "cannot work. Use 2 or more, or leave one of them out."
            )
        if augment.mixes and self.train.batch_size == 1:
            raise UserError(
                "mixup and cutmix mix the images of a batch, but --batch-size 1 has only one. "
                "Use a larger batch, or --mixup 0 --cutmix 0."
            )
        if self.run.folds > 1 and self.data.fold is not None:
            raise UserError("--fold is one of --folds; leave one of them out.")
        if self.data.cache_views is not None:
            self._check_views(self.data.cache_views, augment)
        if self.train.solver == "lbfgs":
            self._check_lbfgs(augment)
        self._check_metric()
        return self

    def _check_metric(self) -> None:
        metric, several = self.train.metric, self.data.task == "multilabel"
        asked = metric != TrainConfig.metric or "metric" in self.run.given
        if several and asked and metric not in MULTILABEL_METRICS:
            raise UserError(
                f"--metric {metric}: with --task multilabel, it must be "
                f"{', '.join(MULTILABEL_METRICS[:-1])} or {MULTILABEL_METRICS[-1]}."
            )
        if several and self.model.head == "conv":
            raise UserError(
                "--head conv: its logits are never negative, so with --task multilabel, no class "
                "could be absent. Use --head linear."
            )
        if metric in ("map", "micro_f1") and not several:
            raise UserError(
                f"--metric {metric} is for images with several labels. Add --task multilabel, or "
                "use accuracy, macro_f1, balanced_accuracy, auroc or loss."
            )

    def _check_views(self, views: int, augment: Augment) -> None:
        if not augment.random:
            raise UserError(
                f"--cache-views {views} has no effect without augmentation: every epoch sees the "
                "same images. Add --augment light, or leave --cache-views out."
            )
        if self.data.fold is not None or self.run.folds > 1:
            raise UserError(
                f"--cache-views {views}: random versions of images are not shared between folds. "
                "Leave it out."
            )
        if augment.mixes:
            mixing = [f"--{name}" for name in ("mixup", "cutmix") if getattr(augment, name) > 0]
            off = " ".join(f"{flag} 0" for flag in mixing)
            raise UserError(
                f"--cache-views {views} caches the features of single images, but "
                f"{' and '.join(mixing)} mix each image with others of its batch. Add {off}, or "
                "leave --cache-views out."
            )
        budget = self.run.cache_budget
        if budget is not None and not parse_bytes("--cache-budget", budget):
            raise UserError(
                f"--cache-views {views} caches features, but --cache-budget 0 turns the cache "
                "off. Leave one of them out."
            )

    def _check_lbfgs(self, augment: Augment) -> None:
        linear = self.model.head in ("linear", "append")
        if self.train.mask != "head_only" or self.train.phases or not linear:
            raise UserError(
                "--solver lbfgs fits a linear head on a frozen backbone: it needs --mask "
                "head_only and --head linear or append, without --phases."
            )
        if augment.random:
            raise UserError(
                "--solver lbfgs fits the head on fixed features, but augmentation changes the "
                "images all the time. Use --augment none, or --solver sgd."
            )
        if self.run.profile:
            raise UserError("--profile: no effect with --solver lbfgs, which takes no steps.")
        if self.run.find_lr:
            raise UserError("--find-lr: no effect with --solver lbfgs, which has no learning rate.")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The options as JSON can hold them, by area."""
        found: dict[str, dict[str, Any]] = {area: {} for area in walk.areas(Config)}
        for name, option in walk.options(Config).items():
            found[option.area][name] = walk.to_json(walk.value(self, option))
        return found

    @classmethod
    def from_dict(cls, areas: dict[str, Any]) -> Config:
        """The inverse of `to_dict`; what is not there is as by default.

        Raises:
            TypeError: A value is none of its option's type.
            KeyError: An option is not known, or an area is missing.
        """
        known = walk.options(Config)
        # Runs from before warm-up was an option had none.
        values: dict[str, Any] = {} if "steps" in areas else {"warmup": 0.0}
        # Nor did they read lists of splits, or scale JPEGs: their images stay what they were.
        data = areas.get("data", {})
        if "split_lists" not in data and with_scheme(data.get("data", "")).startswith("folder:"):
            values["split_lists"] = "ignore"
        if "jpeg_decoding" not in data:
            values["jpeg_decoding"] = "exact"
        # The oldest runs knew no augmentation.
        values["augment"] = "none"
        for area in walk.areas(Config):
            values |= areas.get(area, {}) if area in _NEWER else areas[area]
        return walk.replace(
            cls(), {name: walk.from_json(known[name], value) for name, value in values.items()}
        )
