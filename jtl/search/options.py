"""Options of a search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jtl.common.errors import UserError
from jtl.config import checks, walk
from jtl.config.data import DataConfig, with_scheme
from jtl.config.model import ModelConfig
from jtl.config.options import Config
from jtl.config.run_options import DeviceName
from jtl.config.training import OneClassMetric

TEST_SHARE = 0.15
"""What is held out for the test by default, of data that have none."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The search.

    Attributes:
        budget: How long the search may take, everything included, such as 90s, 10m or 2h. Default:
            10m; with --resume, as before.
        out: Folder for everything that the search writes. Default: a new one in runs/.
        resume: Continue the search in --out, with its options: finished trials are kept, the
            interrupted one resumes. A larger --budget makes a finished search longer; it counts the
            time of all sessions together.
        test: Hold out no test images: all are used for training and validation, and no test
            accuracy is reported.
            Default: if the data has no test split, 15 % of the training images are held out
            (another share with --test-split).
        models: Backbones to compare, such as efficientnet_lite0,efficientnet_lite1; those whose
            weights cannot be had are left out. Each begins with a linear probe, and the better ones
            go on. Default: --model alone; from a budget of 20m on, with the default --model and
            --weights, also those whose default weights need no download (installed packages,
            PyTorch's cache).
        single: Look for a single model only: no ensemble and no average of weights.
        metric: What decides on the validation images: accuracy, macro_f1, balanced_accuracy, auroc
            or loss.
        class_weights: Weight of each class in the training loss: none (every image counts the same)
            or balanced (every class counts the same).
        seed: Seed for splits, new heads, the order of the images and the trials that are drawn.
        device: Device to train on: cpu, gpu or tpu. Default: the fastest one that JAX finds.
        cache_budget: Memory for cached features, as in jtl train, of all processes together.
        workers: Processes that train trials side by side, each on a GPU of its own or on an equal
            part of the CPU cores (as a command only). Default: one for each NVIDIA GPU; 1 on a CPU.
        json: Print the content of search.json on stdout instead of a table.
    """

    budget: Annotated[str | None, walk.Metavar("TIME"), checks.duration] = None
    out: Path | None = None
    resume: bool = False
    test: bool = True
    models: Annotated[tuple[str, ...], walk.Metavar("NAME[,NAME...]")] = ()
    single: bool = False
    metric: OneClassMetric = "accuracy"
    class_weights: Literal["none", "balanced"] = "none"
    seed: Annotated[int, checks.seed] = 0
    device: DeviceName = "auto"
    cache_budget: Annotated[str | None, walk.Metavar("SIZE"), checks.size] = None
    workers: Annotated[int | None, walk.Metavar("N"), checks.at_least(1)] = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
    """Finds the best classifier for your images within a time limit you set.

    For example:
      jtl search my-images --budget 10m
      jtl search --resume --out runs/search-my-images --budget 20m

    It trains the classifier alone (a linear probe, which takes seconds), then more and more layers,
    then varies what works best, until the time is up. It skips anything it expects to
    take too long on this machine. The best model is chosen on the validation images and scored
    once on test images, which are used for nothing else; search.md in --out explains the result.
    Every trial is an ordinary run, for jtl evaluate, predict and export.

    Attributes:
        source: Your images, as for --data of `jtl train`.
    """

    SHORT_HELP: ClassVar[tuple[str, ...]] = (
        "source", "budget", "out", "resume", "test", "test_split", "metric", "model", "models",
        "image_size", "device", "json",
    )  # fmt: skip
    """What the short help explains."""

    source: Annotated[str | None, walk.Metavar("SOURCE")] = walk.positional(None)
    search: SearchConfig = SearchConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()

    def base(self) -> Config:
        """What all trials have in common, as options of a training.

        Raises:
            UserError: The options do not go together.
        """
        data, search = self.data, self.search
        if self.source is not None:
            if data.data != DataConfig().data:
                raise UserError(
                    f"two sources are given, '{self.source}' and --data '{data.data}'. Give one."
                )
            data = dataclasses.replace(data, data=self.source)
        if data.cache_views is not None:
            raise UserError("--cache-views: a search chooses it itself. Leave it out.")
        if data.task != "auto":
            raise UserError(
                f"--task {data.task}: a search compares classifiers of images with one class each. "
                "For several labels, use jtl train --task multilabel."
            )
        if not search.test and data.test_split is not None:
            raise UserError("--no-test and --test-split cannot be combined; use one of them.")
        seed = search.seed if data.split_seed is None else data.split_seed
        data = dataclasses.replace(data, data=with_scheme(data.data), split_seed=seed)
        values: dict[str, Any] = {
            name: getattr(search, name)
            for name in ("metric", "class_weights", "seed", "device", "cache_budget")
        }
        return walk.replace(Config(model=self._model(), data=data), values)

    def _model(self) -> ModelConfig:
        """The network of the trials that name no other.

        Raises:
            UserError: The options do not go together, or there is no such backbone.
        """
        names = list(self.search.models)
        if not names:
            return self.model
        from jtl.models import registry

        for name in names:
            registry.get(name)
        if self.model.model not in (ModelConfig().model, names[0]):
            raise UserError(
                f"--model {self.model.model} and --models {','.join(names)} are both given. Name "
                "all backbones with --models, and leave --model out."
            )
        if len(names) > 1 and (single := several_refused(self.model)) is not None:
            flag = f"--{single.replace('_', '-')}"
            raise UserError(
                f"{flag} is for one backbone, and --models names {len(names)}. Leave one of the "
                "two out."
            )
        return dataclasses.replace(self.model, model=names[0])


def several_refused(model: ModelConfig) -> str | None:
    """The option that is for one backbone only, if one is given."""
    usual = ModelConfig()
    if model.weights not in ("default", "random"):
        return "weights"
    single = ("truncate_at", "aux_head", "entry", "strip_prefix", "ignore_keys", "bgr")
    return next((name for name in single if getattr(model, name) != getattr(usual, name)), None)
