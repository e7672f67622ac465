"""InceptionV3: names of torchvision and timm, which agree, and of Keras, which has but numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jtl.models import NormSpec, Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.inception import Branch, InceptionV3

_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_FIRST_STAGE = 5  # torchvision numbers stages by the grid's place in the paper's figure.


def _torch(_backbone: InceptionV3) -> tuple[Naming, ...]:
    def mixed(stage: str, block: str, branch: str, kind: str) -> str:
        # Its first stage has no `a`: that is the pooling before it.
        letter = "abcde"[int(block) - (stage != "1")]
        return f"Mixed_{int(stage) + _FIRST_STAGE - 1}{letter}.{branch}.{kind}"

    return (
        (r"stem/conv(\d)/(conv|bn)", lambda number, kind: f"{_STEM[int(number) - 1]}.{kind}"),
        (r"stage(\d)/block(\d)/(\w+)/(conv|bn)", mixed),
        (r"aux/(conv[01])/(conv|bn)", lambda name, kind: f"AuxLogits.{name}.{kind}"),
        (r"aux/logits", lambda: "AuxLogits.fc"),
    )


def _layers(branch: Branch) -> Iterator[tuple[str, int]]:
    """A branch's convolutions, and how many Keras layers lie between each and the block's end."""
    from jtl.models.families.inception import Layer

    depth = 0
    for step in reversed(branch):
        if isinstance(step, str):
            continue
        group = (step,) if isinstance(step, Layer) else step
        # Convolution, normalization, activation; layers side by side are concatenated first.
        depth += 3 if isinstance(step, Layer) else 4
        for layer in reversed(group):
            yield layer.name, depth


def _orders(branches: tuple[Branch, ...]) -> tuple[list[str], list[str]]:
    """A block's convolutions as Keras makes them, and by their distance from the output."""
    made = [pair for branch in branches for pair in reversed(list(_layers(branch)))]
    by_depth = sorted(made, key=lambda pair: -pair[1])
    return [name for name, _ in made], [name for name, _ in by_depth]


def _keras(by_depth: bool):
    """Keras names these layers by number alone.

    They are counted as they were made, or in a file without names as the model lists them.
    """

    def modules(_backbone: InceptionV3) -> tuple[Naming, ...]:
        from jtl.models.families.inception import STAGES

        stem = [f"stem/conv{number}" for number in range(1, 1 + len(_STEM))]
        paths = stem + [
            f"stage{s}/block{b}/{name}"
            for s, blocks in enumerate(STAGES, 1)
            for b, branches in enumerate(blocks, 1)
            for name in _orders(branches)[by_depth]
        ]
        numbers = {path: number for number, path in enumerate(paths)}

        def layer(path: str, kind: str) -> str:
            name = {"conv": "conv2d", "bn": "batch_normalization"}[kind]
            return f"{name}_{numbers[path]}" if numbers[path] else name

        return ((r"((?:stem|stage\d/block\d)/\w+)/(conv|bn)", layer),)

    return modules


def _keras_table(library: str, by_depth: bool, classifier: str) -> Table:
    norm = NormSpec(epsilon=1e-3, momentum=0.99, unbiased=False, scale=False)
    return Table(
        library,
        "inception",
        _keras(by_depth),
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={"norm": norm, "pool_counts_padding": False},
        # Pixels from -1 to 1. Keras states no crop, so the field's usual one stands.
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), size=299),
        free_classifier=True,
    )


TABLES = (
    Table(
        "timm/torchvision",
        "inception",
        _torch,
        "fc",
        TORCH,
        ignored=(r".*\.num_batches_tracked", r"AuxLogits\..*"),
    ),
    _keras_table("keras", False, "predictions"),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", True, "dense"),
)


def _keras_mixed(number: str) -> str:
    """Keras counts the 3, 5 and 3 blocks from 0."""
    places = [
        f"stage{s}/block{b}" for s, depth in ((1, 3), (2, 5), (3, 3)) for b in range(1, depth + 1)
    ]
    return places[int(number)] if int(number) < len(places) else f"mixed{number}"


OUTPUTS = (
    (r"maxpool2|max_pooling2d_1|Pool2", lambda: "stem"),
    (r"mixed(\d+)", _keras_mixed),
)

MODELS = {
    "inception_v3": Published(
        ("timm/torchvision", "keras", "keras (numbered)"),
        timm={
            "inception_v3": network(
                "gluon_in1k tf_adv_in1k tf_in1k tv_in1k", tv_in1k={"299": 77.29}
            )
        },
        keras="InceptionV3",
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
