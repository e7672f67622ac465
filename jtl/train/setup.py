"""All that a run decides before its first step: data, network, weights, phases, input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jtl import models, weights
from jtl.cache.features import FeatureCache
from jtl.cache.sizes import memory_budget
from jtl.cache.store import FeatureStore
from jtl.common import garbage_collection
from jtl.common.errors import UserError
from jtl.common.paths import FEATURES, cache_dir
from jtl.common.progress import Display
from jtl.common.trees import ParamTree
from jtl.config.defaults import phase_defaults
from jtl.config.options import Config
from jtl.data.augment import Augmentation
from jtl.data.balance import class_weights
from jtl.data.decoding import BITS
from jtl.data.input_plan import InputPlan, common_size, plan_input
from jtl.data.sources import registry
from jtl.distributed.sharding import SINGLE, DataSharding, sharding_for
from jtl.freeze import lora, phases
from jtl.freeze.phase_plan import PhasePlan, plan_phases
from jtl.freeze.phases import Phase
from jtl.models import ImageClassifier, heads
from jtl.models.initialization import initialize
from jtl.optim import lbfgs
from jtl.optim.recipe import Recipe, recipe
from jtl.runs.checkpoints.model_description import describe_model
from jtl.train import number_format, starting_weights, training_data
from jtl.train.automatic import augmented, chosen


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run's fixed parts.

    Attributes:
        config: The options.
        dataset: The images.
        model: The classifier.
        variables: {"params", "batch_stats"} of the network before training: NumPy arrays, which
            nothing on a device can change, to hold the frozen leaves against at the end.
        plans: The phases; at least one.
        inputs: How images become the network's input.
        source: Where the weights come from, for the summary.
        conventions: What the weights demand of the backbone.
        sharding: The devices that share every batch.
        adapters: Where a mask trains some.
        start_known: Whether `variables` are what the run began with; else only frozen leaves are.
    """

    config: Config
    dataset: registry.Dataset
    model: ImageClassifier
    variables: ParamTree
    plans: tuple[PhasePlan, ...]
    inputs: InputPlan
    source: dict[str, Any]
    conventions: dict[str, Any]
    sharding: DataSharding = SINGLE
    start_known: bool = True
    adapters: lora.Adapters | None = None

    @functools.cached_property
    def start(self) -> ParamTree:
        """What training starts from: `variables`, with fresh adapters where there are some."""
        return _adapted(self.variables, self.adapters, self.config.train.seed)

    def plain(self, variables: ParamTree) -> ParamTree:
        """The variables of the network as it computes, adapters merged; NumPy arrays."""
        if self.adapters is None:
            return variables
        return {**variables, "params": lora.merged(variables["params"], self.adapters.scale)}

    @property
    def epochs(self) -> int:
        """The epochs of all phases together."""
        return self.plans[-1].last_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch, as many as make whole updates; at least one update."""
        accumulate = self.config.steps.accumulate
        count = max(len(self.dataset.train) // self.config.train.batch, 1)
        return count // accumulate * accumulate

    def plan_of(self, epoch: int) -> PhasePlan:
        """The phase that an epoch (1-based) belongs to."""
        return next(plan for plan in self.plans if epoch <= plan.last_epoch)

    @property
    def class_weights(self) -> np.ndarray | None:
        """How much each class counts in the training loss, float32 [num_classes]."""
        dataset = self.dataset
        return class_weights(
            self.config.train.class_weights, dataset.train.labels, dataset.class_names
        )

    def meta(self) -> dict[str, Any]:
        """What a checkpoint carries beside its arrays."""
        return describe_model(
            self.config.model.model,
            self.model,
            self.inputs,
            self.dataset.class_names,
            conventions=self.conventions,
            source=self.source,
            multilabel=self.dataset.multilabel,
            adapters=self.adapters,
        )


def prepare_setup(config: Config, display: Display, resumed: Path | None = None) -> Setup:
    """Loads data and weights and sets everything up; trains nothing, writes no run.

    Args:
        config: As `jtl.train.checks.checked` gives it.
        display: Told what takes time.
        resumed: The folder of the run that goes on, if it is none that begins.

    Raises:
        UserError: Data, weights, head or masks cannot be used.
    """
    config = augmented(config)
    dataset = training_data.load(config, display)
    size = common_size(dataset)
    options = config.model
    entry = models.get(options.model)
    pretrained, start_known = starting_weights.find(config, display, resumed)
    translate = functools.partial(weights.translate, model=options.model)
    at = options.truncate_at
    conventions = {} if pretrained is None else dict(pretrained.conventions)
    if options.aux_head:
        conventions["aux_classes"] = len(dataset.class_names)
    model = models.create(
        options.model,
        num_classes=len(dataset.class_names),
        head=heads.from_options(options, None if pretrained is None else pretrained.num_classes),
        conventions=conventions,
        truncate_at=None if at is None else translate(at),
    )
    preprocessing = entry.preprocessing if pretrained is None else pretrained.preprocessing
    inputs = plan_input(
        size,
        config.data.image_size,
        preprocessing,
        upsample=config.data.upsample,
        scaled_jpeg=config.data.jpeg_decoding == "scaled",
        fit=config.data.fit,
    )
    inputs = dataclasses.replace(inputs, bit_depth=dataset.bit_depth or BITS)
    _check_batch_norm(config, models.variable_shapes(model, inputs.device.size))
    variables = initialize(
        model,
        None if pretrained is None else pretrained.variables,
        size=inputs.device.size,
        seed=config.train.seed,
    )
    config = chosen(config, variables, in_memory=head_fits(config, variables, dataset))
    listed = phases_of(config, model)
    adapters = lora.adapters_of((phase.mask for phase, _ in listed), config.train.lora_alpha)
    plans = plan_phases(
        listed,
        _adapted(variables, adapters, config.train.seed)["params"],
        model.units(),
        bn=config.train.bn,
        translate=functools.partial(path_called, model=model, foreign=translate),
        extended=len(config.train.extended),
    )
    if options.aux_head and not any("aux" in plan.cut.train_units for plan in plans):
        raise UserError(
            f"--aux-head has no effect: {' and '.join(p.phase.mask for p in plans)} freezes it. "
            "Use a mask that trains it, such as full or last_stages:2, or leave it out."
        )
    images = len(dataset.train) + len(dataset.val)
    config, model, inputs = number_format.settled(
        config, model, variables, inputs, plans, images=images, display=display
    )
    augment = config.augment.resolved()
    if augment.random:
        augmentation = Augmentation(augment, inputs.device, len(dataset.class_names))
        views = config.data.cache_views or 0
        inputs = dataclasses.replace(inputs, augmentation=augmentation, views=views)
    garbage_collection.resume()
    return Setup(
        config=config,
        dataset=dataset,
        model=model,
        variables=variables,
        plans=plans,
        inputs=inputs,
        source={"name": "random"}
        if pretrained is None
        else {
            "name": pretrained.source,
            "sha256": pretrained.sha256,
            "licence": pretrained.licence,
        },
        conventions=conventions,
        sharding=sharding_for(min(config.train.batch, len(dataset.train))),
        start_known=start_known,
        adapters=adapters,
    )


def _adapted(variables: ParamTree, adapters: lora.Adapters | None, seed: int) -> ParamTree:
    if adapters is None:
        return variables
    return {**variables, "params": adapters.attached(variables["params"], seed)}


def feature_cache(setup: Setup, display: Display) -> FeatureCache:
    """The features of a run, in the user's cache folder."""
    return FeatureCache(
        setup.dataset,
        setup.model,
        setup.inputs,
        name=setup.config.model.model,
        seed=setup.config.train.seed,
        budget=setup.config.run.cache_budget,
        stored=setup.config.data.cache_dtype,
        store=FeatureStore(cache_dir() / FEATURES, display.message),
        sharding=setup.sharding,
        display=display,
    )


def head_fits(config: Config, variables: ParamTree, dataset: registry.Dataset) -> bool:
    """Whether L-BFGS has room for the features that the head gets, and for its work."""
    width, classes = variables["params"]["head"]["logits"]["kernel"].shape
    needed = lbfgs.needed_bytes(len(dataset.train) + len(dataset.val), width, classes)
    return needed <= memory_budget(config.run.cache_budget)


def _check_batch_norm(config: Config, shapes: ParamTree) -> None:
    if config.train.bn in ("frozen", "train") and not shapes["batch_stats"]:
        raise UserError(
            f"--bn {config.train.bn} has no effect: neither {config.model.model} nor its head "
            "has batch normalization. Leave it out."
        )


def path_called(name: str, *, model: ImageClassifier, foreign: Callable[[str], str]) -> str:
    """The path in this model that a name stands for; its own names come before others'.

    Args:
        name: A path of the model, or another library's layer name.
        model: The classifier. Where it keeps the weights' own classifier, that library's name
            of its classifier means what was kept, not the new head.
        foreign: From another library's layer names to paths of a model with one head.
    """
    units = [unit.path for unit in model.units()]
    if any(f"{name}/".startswith(f"{u}/") or u.startswith(f"{name}/") for u in units):
        return name
    path = foreign(name)
    if path != name and "classifier" in units and path.split("/")[0] == "head":
        return "classifier" + path.removeprefix("head")
    return path


def phases_of(config: Config, model: ImageClassifier) -> list[tuple[Phase, Recipe]]:
    """The run's phases with their hyper-parameters; a single mask is a single phase.

    Raises:
        UserError: `--phases` cannot be used.
    """
    train = config.train
    if train.phases is None:
        epochs = phase_defaults(config, train.mask).epochs
        listed = (Phase(1 if train.solver == "lbfgs" else epochs, train.mask),)
    else:
        listed = phases.parse(train.phases, train.epochs, model.units())
    # Under the last mask, and at its learning rate.
    listed += tuple(dataclasses.replace(listed[-1], epochs=more) for more in train.extended)
    planned = []
    for phase in listed:
        how = recipe(config, phase.mask, phase.lr)
        planned.append((dataclasses.replace(phase, lr=how.rates.lr), how))
    patience = config.steps.plateau_patience
    if train.schedule == "plateau" and all(phase.epochs <= patience for phase, _ in planned):
        raise UserError(
            f"--schedule plateau waits {patience} epochs for a better validation loss, but no "
            "phase is longer than that, so the learning rate would never fall. Lower "
            "--plateau-patience, or raise --epochs."
        )
    return planned
