"""What `auto` means for a training, from what is known before its first step.

The evidence for each rule is in docs/training.md and docs/freezing.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jtl.common.errors import UserError
from jtl.common.trees import ParamTree, subtree
from jtl.config import defaults, walk
from jtl.config.options import Config
from jtl.config.training import WITHOUT_STEPS
from jtl.distributed import processes
from jtl.freeze.param_groups import HEAD, is_head

if TYPE_CHECKING:
    from jtl.freeze.phase_plan import PhasePlan
    from jtl.train.setup import Setup

APART = 0.2
"""Of training above validation accuracy, from where on batch statistics may be the cause."""


def chosen(config: Config, variables: ParamTree, *, in_memory: bool = True) -> Config:
    """The options with `bn` and `solver` as they will be.

    Args:
        config: As it was given.
        variables: The classifier's.
        in_memory: Whether the features before the head fit there.

    Raises:
        UserError: A penalty is given, and nothing has one.
    """
    train = config.train
    values: dict[str, Any] = {}
    if train.bn == "auto":
        has_batch_norm = variables.get("batch_stats", {}).keys() - {HEAD}
        pretrained = config.model.weights != "random"
        values["bn"] = "frozen" if pretrained and has_batch_norm else "batch"
    if train.solver == "auto":
        linear = config.model.head in ("linear", "append") and train.bn != "train"
        convex = train.mask == "head_only" and train.phases is None and linear
        steps = _asks_for_steps(config) or processes.is_distributed() or not in_memory
        values["solver"] = "lbfgs" if convex and not steps else "sgd"
        if train.l2 != "auto" and values["solver"] == "sgd":
            raise UserError(
                "--l2 has no effect when the head is trained step by step. Leave it out, or use "
                "--weight-decay."
            )
    return walk.replace(config, values)


def augmented(config: Config) -> Config:
    """The options with `augment` as it will be, before data and weights are read."""
    if config.augment.augment != "auto":
        return config
    return walk.replace(config, {"augment": defaults.augmentation(config)})


def _asks_for_steps(config: Config) -> bool:
    """Whether an option is given that needs steps."""
    run, known = config.run, walk.options(Config)
    given = [name for name in walk.changed(config) if known[name].area in ("train", "steps")]
    return (
        run.find_lr
        or run.profile
        or config.augment.resolved().random
        or bool(set(given) - set(WITHOUT_STEPS))
    )


def fine_tunes(setup: Setup) -> bool:
    """Whether a pretrained backbone trains, which a linear probe can be held against."""
    if setup.config.model.weights == "random" or not setup.start_known:
        return False
    return any(not is_head(label) for plan in setup.plans for label in plan.learning_rates)


def mismatch(setup: Setup, plan: PhasePlan, line: dict[str, Any]) -> str | None:
    """A warning where accuracies with batch statistics and with running averages part ways.

    Args:
        setup: The training.
        plan: The phase of the epoch.
        line: The epoch's of `metrics.jsonl`.
    """
    if setup.dataset.multilabel:  # Whole sets of labels are rarely right at first.
        return None
    apart = line["train_accuracy"] - line["val_accuracy"]
    backbone = plan.cut.stats_units - {HEAD}
    normalized = any(subtree(setup.variables.get("batch_stats", {}), unit) for unit in backbone)
    if not normalized or apart < APART or setup.config.model.weights == "random":
        return None
    return (
        f"training accuracy (with the statistics of each batch) is {line['train_accuracy']:.3f}, "
        f"but validation accuracy (with running averages) is {line['val_accuracy']:.3f}. The "
        "running averages may not match your images yet; try --bn frozen, which keeps those of "
        "the weights."
    )


def lines(setup: Setup, asked: Config) -> Iterator[str]:
    """What `auto` came to: whether images are cropped, how blocks that train normalize, and why.

    Args:
        setup: A training with its options as they are.
        asked: The options as they were given.
    """
    if asked.augment.augment == "auto" and setup.config.augment.augment == "crops":
        yield (
            "Training images are cropped at random (--augment crops), because every layer "
            "is trained, so nothing could be cached anyway"
        )
    bn = setup.config.train.bn
    trains = any(not is_head(label) for plan in setup.plans for label in plan.learning_rates)
    if not trains or not setup.variables.get("batch_stats", {}).keys() - {HEAD}:
        return
    told = {
        "frozen": "keep the averages of the weights",
        "batch": "use the averages of each batch",
        "train": "use the averages of each batch, in frozen layers too",
    }[bn]
    if asked.train.bn == "auto":
        told = {
            "frozen": "keep the averages of the pretrained weights, which suits few images",
            "batch": "use the averages of each batch, because the weights are random",
        }[bn]
    yield f"Normalization layers (BatchNorm) {told} (--bn {bn})"
