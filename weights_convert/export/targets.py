"""Where an export can go: which model of which library has exactly this network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jtl import models
from jtl.common.errors import UserError
from jtl.models import NormSpec
from weights_convert.convert.rules import Table
from weights_convert.convert.tables import TABLES, has, published, torchvision_name

# Library -> suffixes of the files that it reads and an export writes.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "timm": (".safetensors",),
    "torchvision": (".safetensors",),
    "keras": (".weights.h5",),
}
# The conventions that an export to a library is written in, first match wins.
_CONVENTIONS = {
    "timm": ("timm/torchvision", "timm", "timm (1x1 convolutions)"),
    "torchvision": ("timm/torchvision", "torchvision"),
    # How Keras 3 itself writes .weights.h5.
    "keras": ("keras (numbered)", "keras (numbered, no top)"),
}
# Keras's networks that can leave out their own layers that scale images.
_OPTIONAL_SCALING = ("mobilenet_v3", "efficientnet_v2", "convnext")

# Pixels of the images whose last feature map a VGG's dense layers fit as it is.
_FITS_FROM, _SLIDES_FROM = 224, 256


@dataclasses.dataclass(frozen=True)
class TargetModel:
    """One model of another library.

    Attributes:
        library: One of `LIBRARIES`.
        architecture: The model's name there.
        table: How its tensors are called.
        backbone: Its network as a configuration of jtl.
        loading: Lines of Python that load an export; `FILE` stands for its path.
        notes: What behaves differently there, if the model is trained further.
    """

    library: str
    architecture: str
    table: Table
    backbone: Any
    loading: str = ""
    notes: tuple[str, ...] = ()

    @property
    def can_leave_out_scaling(self) -> bool:
        """Whether an option leaves out its own layers that scale images."""
        return self.library == "keras" and self.table.family in _OPTIONAL_SCALING

    @property
    def scales_images(self) -> bool:
        """Whether it takes pixels from 0 to 255, which layers of its own scale."""
        return self.table.scales and not self.can_leave_out_scaling


def choose(
    to: str, model: str, backbone: Any, pool: str, num_classes: int | None, size: int = 224
) -> TargetModel:
    """The model of library `to` that computes what `model` computes.

    Args:
        to: One of `LIBRARIES`.
        model: A name of `jtl.models.names()`.
        backbone: Its configuration, with the conventions of its weights.
        pool: Kind of its pooling.
        num_classes: Width of its classifier; None for a bare backbone.
        size: Of the images that it takes, in pixels.

    Raises:
        UserError: The library has none; the message says what differs.
    """
    possible = candidates(to, model)
    if not possible:
        others = [name for name in LIBRARIES if candidates(name, model)]
        raise UserError(
            f"{model} cannot be exported to {to}. It can be exported to: "
            f"{', '.join(others) or 'none'}."
        )
    if pool == "flatten" or (pool != "avg" and to != "timm"):
        raise UserError(
            f"{to}'s {possible[0].architecture} pools by averages, the model by {pool}. "
            + ("Export to timm, which has a switch for it." if pool == "max" else "Train with avg.")
        )
    found = [
        (
            target,
            _top_differences(target, num_classes, size)
            + _position_differences(target, backbone, size)
            + _differences(backbone, target.backbone, size),
        )
        for target in possible
    ]
    for target, differences in found:
        if not differences:
            return dataclasses.replace(
                target,
                loading=_loading(target, pool, num_classes, backbone, size),
                notes=_notes(backbone, target.backbone),
            )
    listed = "\n".join(
        f"  {target.architecture}: {'; '.join(differences)}" for target, differences in found
    )
    raise UserError(
        f"{to} has no {model} that computes what these weights need, and under its names they "
        f"would give other results:\n{listed}\n{_remedy(to, model)}"
    )


def _remedy(to: str, model: str) -> str:
    if to != "keras":
        return "Export to the library the weights came from."
    return (
        "Export to the library the weights came from; or, for Keras, train from its own weights: "
        f"--weights FILE.weights.h5 --model {model}."
    )


def candidates(to: str, model: str) -> list[TargetModel]:
    """The models of library `to` that have the keys of `model`."""
    tables = [t for t in TABLES if has(t, model) and t.library in _CONVENTIONS[to]]
    plain: Any = models.get(model).backbone
    return [
        TargetModel(to, name, table, dataclasses.replace(plain, **{**table.conventions, **own}))
        for table in tables
        for name, own in _architectures(to, model)
    ]


def keras_name(model: str) -> str | None:
    """The name of `model` in `keras.applications`; None if Keras does not have it."""
    return published(model).keras


def is_gone(table: Table) -> bool:
    """Whether its library no longer has the network of its weights."""
    return table.library == "keras (old keys)" and table.family == "resnet"


def _architectures(to: str, model: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The model's names in a library, and what each has of its own."""
    known = published(model)
    if to == "keras":
        return [(known.keras, {})] if known.keras else []
    if to != "timm":
        return [(torchvision_name(model), {})]
    return [(name, network.conventions) for name, network in known.timm.items()] or [(model, {})]


def _top_differences(target: TargetModel, num_classes: int | None, size: int) -> list[str]:
    """Where Keras has dense layers before the logits: both come or go, and fit one size."""
    if target.library != "keras" or not hasattr(target.backbone, "dense"):
        return []
    if target.backbone.dense and not num_classes:
        return ["dense layers come with a classifier there, and there is none in the weights"]
    if num_classes and not target.backbone.dense:
        return ["a classifier comes with dense layers there"]
    # Those of MobileNetV3 stand on one pixel.
    sized = target.backbone.dense and hasattr(target.backbone, "fit")
    if sized and not _FITS_FROM <= size < _SLIDES_FROM:
        return [
            f"images are of {size} pixels, and its dense layers take those of {_FITS_FROM} to "
            f"{_SLIDES_FROM - 1} there (--image-size {_FITS_FROM})"
        ]
    return []


def _position_differences(target: TargetModel, backbone: Any, size: int) -> list[str]:
    """Where position embeddings are for images of one size, and the library resizes none."""
    own = getattr(backbone, "image_size", size)
    if target.library == "timm" or own == size:
        return []
    return [
        f"images are of {size} pixels, and the position embeddings are for {own} there "
        f"(--image-size {own})"
    ]


def _differences(have: Any, want: Any, size: int) -> list[str]:
    """What makes two configurations compute differently; names the weights' side first."""
    differences = []
    for field in dataclasses.fields(want):
        # Their libraries make the table of positions that an option says.
        if field.name == "grid":
            continue
        # Dropout is of further training alone; how dense layers fit, of larger images.
        if field.name == "dropout" or (field.name == "fit" and size < _SLIDES_FROM):
            continue
        # PyTorch's libraries have an auxiliary head as an option.
        if field.name == "aux_classes" and want.norm.scale:
            continue
        ours, theirs = getattr(have, field.name), getattr(want, field.name)
        if isinstance(ours, NormSpec):
            if ours.epsilon != theirs.epsilon:
                text = f"epsilon of batch normalization is {ours.epsilon:g} in the weights"
                differences.append(f"{text}, {theirs.epsilon:g} there")
        elif ours != theirs:
            differences.append(f"{field.name} is {ours} in the weights, {theirs} there")
    return differences


def _notes(have: Any, want: Any) -> tuple[str, ...]:
    """What only further training, or larger images, would notice."""
    notes = []
    rates = [getattr(backbone, "dropout", 0.0) for backbone in (have, want)]
    if rates[0] != rates[1]:
        notes.append(f"dropout is {rates[1]:g} there and was {rates[0]:g} in the source")
    if getattr(have, "fit", None) != getattr(want, "fit", None):
        notes.append(
            f"images from {_SLIDES_FROM} pixels on give other results there: its dense layers "
            f"are {want.fit}, the source's {have.fit}"
        )
    if not (hasattr(have, "norm") and hasattr(want, "norm")):
        return tuple(notes)
    ours, theirs = have.norm, want.norm
    if ours.momentum != theirs.momentum:
        notes.append(
            f"batch normalization keeps {theirs.momentum:g} of its running averages per step "
            f"there and kept {ours.momentum:g} in the source"
        )
    if ours.unbiased != theirs.unbiased:
        kinds = {True: "unbiased", False: "biased"}
        notes.append(
            f"running variances there follow the {kinds[theirs.unbiased]} variance of a batch, "
            f"in the source the {kinds[ours.unbiased]}"
        )
    return tuple(notes)


def _loading(
    target: TargetModel, pool: str, num_classes: int | None, backbone: Any, size: int
) -> str:
    aux_classes = getattr(backbone, "aux_classes", 0)
    name = target.architecture
    if target.library == "keras":
        # Its classifiers take one size, which is another by default for some.
        options = f"weights=None, classes={num_classes}, input_shape=({size}, {size}, 3)"
        if not num_classes:
            options = "weights=None, include_top=False"
        if target.can_leave_out_scaling:
            # By jtl's own mean and standard deviation, which may be others than its layer's.
            options += ", include_preprocessing=False"
        network = f"keras.applications.{name}({options})"
        return f'import keras\nmodel = {network}\nmodel.load_weights("FILE")'
    load = 'model.load_state_dict(safetensors.torch.load_file("FILE"), strict=True)\nmodel.eval()'
    positions = getattr(backbone, "image_size", None)
    if target.library == "timm":
        options = f", num_classes={num_classes or 0}"
        if positions:
            options += f", img_size={positions}"
            options += ', global_pool="avg"' if backbone.pooling == "avg" else ""
            options += ", dynamic_img_size=True" if size != positions else ""
        elif pool != "avg":
            options += f', global_pool="{pool}"'
        options += ", aux_logits=True" if aux_classes else ""
        network = f'model = timm.create_model("{name}"{options})'
        return f"import safetensors.torch\nimport timm\n{network}\n{load}"
    options = [f"num_classes={num_classes}"] if num_classes else []
    options += [f"image_size={positions}"] if positions else []
    if name == "inception_v3":  # Without minutes of drawing weights.
        options += [f"aux_logits={bool(aux_classes)}", "init_weights=False"]
    lines = [f"model = torchvision.models.{name}({', '.join(options)})"]
    imports = ["import safetensors.torch", "import torchvision"]
    if not num_classes:
        imports.insert(1, "import torch")
        classifier = re.sub(r"\.(\d+)", r"[\1]", target.table.classifier)
        lines.append(f"model.{classifier} = torch.nn.Identity()")
    if target.table.family == "mnasnet":  # It refuses a state dict without its modules' versions.
        lines += ["state = model.state_dict()", "state.clear()"]
        lines.append('state.update(safetensors.torch.load_file("FILE"))')
        load = "model.load_state_dict(state, strict=True)\nmodel.eval()"
    return "\n".join([*imports, *lines, load])
