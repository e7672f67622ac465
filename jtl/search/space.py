"""What a search tries: first a fixed plan, then variations of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jtl.config.defaults import mask_defaults

STRATEGIES = ("last_stage", "last_stages:2", "full")
"""What the plan trains after the linear probe, from cheap to dear."""
SHARES = {"last_stage": 0.25, "last_stages:2": 0.4, "full": 0.9}
"""The share of the time that is left which one of them may take."""
LARGEST_SHARE = 0.75
"""The share that one of them may take with the fewest epochs."""
SURE_SHARE = 0.75
"""The share of the time left after the others in which the last one must fit, to come last."""
SIZES = (0.7, 1.3)
"""Input sizes beside the default one."""
SIZE_SHARE = 0.1
"""The share of the time that is left which a probe at another size may take."""
FEWEST_EPOCHS = 2
SEARCHED = (
    "last_stage", "last_stages:2", "last_stages:3", "norm_only", "bias_only", "full", "lp_ft",
    "gradual",
)  # fmt: skip
_PHASES = ("lp_ft", "gradual")
"""Those of them that are values of `--phases`; their phases have learning rates of their own."""
_SMALL = ("norm_only", "bias_only")
"""Those that train few numbers, without weight decay."""
HEADS = ("linear", "mlp")
HEAD_SHARE = 0.1
"""The share of the time that is left which a head with a hidden layer may take."""
BACKBONES_SHARE = 0.5
"""The share of the time that is left which the probes of other backbones may take together."""
EPOCHS = (3, 5, 10, 15, 20)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What may be tried.

    Attributes:
        name: For people.
        stage: As of `jtl.search.trials.Trial`.
        options: Options of `jtl train`.
        share: Of the time left, what it may take.
        most: Of the time left, what it may take with the fewest epochs.
    """

    name: str
    stage: str
    options: dict[str, Any]
    share: float = 1.0
    most: float = 0.0


SMALLEST_SIZE = 64
"""Of a default input size below it no others are tried."""


def probe(options: dict[str, Any]) -> Candidate:
    """The floor, which is always there: the classifier alone is trained.

    Args:
        options: How, such as {"solver": "lbfgs"}.
    """
    return Candidate("head_only", "probe", {"mask": "head_only", **options})


def with_model(candidate: Candidate, model: str | None) -> Candidate:
    """A candidate with another backbone than the first; None leaves it as it is."""
    if model is None:
        return candidate
    options = {**candidate.options, "model": model}
    return dataclasses.replace(candidate, name=f"{candidate.name}, model {model}", options=options)


def backbones(probes: Mapping[str, Candidate]) -> list[Candidate]:
    """Linear probes of other backbones than the first, by their names."""
    share = BACKBONES_SHARE / max(len(probes), 1)
    each = {
        model: dataclasses.replace(probe, stage="backbone", share=share)
        for model, probe in probes.items()
    }
    return [with_model(candidate, model) for model, candidate in each.items()]


def heads() -> list[Candidate]:
    """The classifier alone with a hidden layer, on the features that the probe has computed."""
    options = {"mask": "head_only", "head": "mlp"}
    return [Candidate(name(options), "head", options, share=HEAD_SHARE)]


def sizes(probe: Candidate, default: int, least: int) -> list[Candidate]:
    """Linear probes at other input sizes, multiples of 32.

    Args:
        probe: The one at the default size.
        default: That size.
        least: The smallest that the network takes.
    """
    if default < SMALLEST_SIZE:
        return []
    found = {max(32 * round(factor * default / 32), 32) for factor in SIZES} - {default}
    return [
        Candidate(
            f"head_only at {size} pixels",
            "size",
            {**probe.options, "image_size": size},
            share=SIZE_SHARE,
        )
        for size in sorted(found)
        if size >= least
    ]


def strategies(*, whole: bool = False) -> list[Candidate]:
    """The plan after the probes: every strategy as jtl trains it by default.

    Args:
        whole: Whether one may take all the time that is left with the fewest epochs.
    """
    found = []
    for mask in STRATEGIES:
        most = 1.0 if whole else max(SHARES[mask], LARGEST_SHARE)
        found.append(Candidate(mask, "plan", {"mask": mask}, SHARES[mask], most))
    return found


def choices(
    sizes: tuple[int, ...], heads: tuple[str, ...] = ("linear",)
) -> dict[str, tuple[Any, ...]]:
    """What variations are made of, by name.

    Args:
        sizes: Input sizes to choose from, the default one first.
        heads: Heads to choose from, the default one first.
    """
    return {
        "strategy": SEARCHED,
        "epochs": EPOCHS,
        "learning_rate_multiple": (0.3, 0.5, 1.0, 2.0, 3.0),
        "augment": ("none", "crops", "light"),
        "bn": ("frozen", "batch"),
        "weight_decay": (1e-3, 1e-2, 1e-1),
        **({"image_size": sizes} if len(sizes) > 1 else {}),
        **({"head": heads} if len(heads) > 1 else {}),
    }


def parameters(
    options: dict[str, Any], epochs: int, choices: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """What a trial of the plan is as a variation, with the nearest number of epochs."""
    usual = {"learning_rate_multiple": 1.0, "bn": "frozen", "weight_decay": 1e-3}
    found = {name: usual.get(name, values[0]) for name, values in choices.items()}
    return found | {
        "strategy": options["mask"],
        "augment": "crops" if options["mask"] == "full" else "none",
        "epochs": min(EPOCHS, key=lambda choice: abs(choice - epochs)),
    }


def neighbours(best: dict[str, Any]) -> list[dict[str, Any]]:
    """Variations of the plan's best trial in one thing each, to begin with."""
    more = next((count for count in EPOCHS if count > best["epochs"]), best["epochs"])
    changes = [
        {"augment": "light"},
        {"learning_rate_multiple": 2.0},
        {"epochs": more},
        {"learning_rate_multiple": 0.5},
        {"bn": "batch"},
    ]
    return [{**best, **change} for change in changes]


def varied(drawn: dict[str, Any], size: int) -> Candidate:
    """A variation.

    Args:
        drawn: One of the `choices` for each name.
        size: The default input size.
    """
    strategy, epochs = drawn["strategy"], drawn["epochs"]
    options: dict[str, Any] = {"epochs": epochs}
    options |= {"phases" if strategy in _PHASES else "mask": strategy}
    rate = drawn["learning_rate_multiple"]
    if rate != 1.0 and strategy not in _PHASES:
        options["lr"] = float(f"{rate * mask_defaults(strategy).lr:.3g}")
    usual = "crops" if strategy == "full" else "none"
    if (augment := drawn["augment"]) != usual:
        options["augment"] = augment
        if augment != "none" and strategy.startswith("last_stage"):
            options["cache_views"] = CACHED_VIEWS
    if drawn["bn"] == "batch" and strategy != "norm_only":
        options["bn"] = "batch"
    if (decay := drawn["weight_decay"]) != 1e-3 and strategy not in _SMALL:
        options["weight_decay"] = decay
    if drawn.get("image_size", size) != size:
        options["image_size"] = drawn["image_size"]
    if drawn.get("head", "linear") != "linear":
        options["head"] = drawn["head"]
    return Candidate(name(options), "search", options)


CACHED_VIEWS = 4
"""Random versions of each image whose features are cached, where layers are frozen."""


def name(options: dict[str, Any]) -> str:
    """Options for people.

    Example:
        >>> name({"mask": "full", "epochs": 5, "lr": 2e-4, "augment": "light"})
        'full, 5 epochs, lr 0.0002, augment light'
    """
    parts = [options.get("phases") or options["mask"]]
    if epochs := options.get("epochs"):
        parts.append(f"{epochs} epoch{'' if epochs == 1 else 's'}")
    parts += [
        f"{key.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in options.items()
        if key not in ("mask", "phases", "epochs")
    ]
    return ", ".join(part.replace("_size", " size").replace("_views", " views") for part in parts)
