"""timm's and torchvision's networks, frozen as jtl's masks freeze them."""

from __future__ import annotations

from typing import Any

import timm
import torch

from weights_convert.catalogue.weights import timm_names


def timm_name(name: str) -> str:
    """The name that a backbone of jtl has in timm."""
    return timm_names(name)[0]


def network(name: str, **options: Any) -> Any:
    """A network of timm; of torchvision where timm has none, or another form than jtl's own."""
    if name.startswith("vgg") or not timm.is_model(timm_name(name)):
        import torchvision

        return torchvision.models.get_model(name, **options)
    return timm.create_model(timm_name(name), **options)


def create(name: str, classes: int, mask: str) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
    """A network in channels_last, and its frozen modules.

    Frozen params require no gradient. As images require none either, PyTorch records
    nothing before the first trained layer and keeps no activations of the frozen part: the
    same as running it under `no_grad`.
    """
    model = network(name, num_classes=classes)
    model = model.to(memory_format=torch.channels_last)
    frozen = frozen_modules(model, name, mask)
    for module in frozen:
        module.requires_grad_(False)
    return model, frozen


def frozen_modules(model: Any, name: str, mask: str) -> list[torch.nn.Module]:
    """What `head_only`, `last_stage` or `full` leaves alone."""
    if mask == "full":
        return []
    if isinstance(getattr(model, "classifier", None), torch.nn.Sequential):
        return sequential_modules(model, mask)
    if mask == "head_only":
        return [module for module in model.children() if module is not model.get_classifier()]
    assert mask == "last_stage", mask
    if hasattr(model, "Mixed_7a"):
        children = dict(model.named_children())
        return [children[key] for key in list(children)[: list(children).index("Mixed_7a")]]
    if hasattr(model, "layer4"):  # The ResNets, wide ones and those with groups too.
        return [model.conv1, model.bn1, model.layer1, model.layer2, model.layer3]
    if name.startswith("densenet"):
        children = dict(model.features.named_children())
        return [m for key, m in children.items() if key not in ("denseblock4", "norm5")]
    # The last convolution before the pooling is a stage there.
    ends = -2 if name.startswith("mobilenet_v3") else -1
    return [model.conv_stem, model.bn1, *list(model.blocks)[:ends]]


def sequential_modules(model: Any, mask: str) -> list[torch.nn.Module]:
    """The same of torchvision's networks that number their layers."""
    layers = list(model.features)
    if mask == "head_only":
        with_params = [m for m in model.classifier if any(True for _ in m.parameters())]
        return [*layers, *with_params[:-1]]
    assert mask == "last_stage", mask
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.MaxPool2d)]
    # SqueezeNet's last stage follows its last pooling, the others' ends with it.
    ends = len(layers) - 1 == pools[-1]
    return layers[: pools[-2 if ends else -1] + 1]


def training_mode(model: torch.nn.Module, frozen: list[torch.nn.Module]) -> None:
    """Batch statistics where something trains, running averages where not."""
    model.train()
    for module in frozen:
        module.eval()
