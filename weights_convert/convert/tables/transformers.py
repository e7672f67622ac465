"""ResNet: names of Hugging Face transformers (`microsoft/resnet-50`)."""

from jtl.models.families.resnet import ResNet
from weights_convert.convert.rules import TORCH, Naming, Table

_KINDS = {"conv": "convolution", "bn": "normalization"}


def _resnet(_backbone: ResNet) -> tuple[Naming, ...]:
    def layer(stage: str, block: str, inner: str, kind: str) -> str:
        place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{int(block) - 1}"
        return f"{place}.{inner}.{_KINDS[kind]}"

    return (
        (r"stem/(conv|bn)1", lambda kind: f"resnet.embedder.embedder.{_KINDS[kind]}"),
        (
            r"stage(\d)/block(\d+)/(conv|bn)(\d)",
            lambda stage, block, kind, number: layer(
                stage, block, f"layer.{int(number) - 1}", kind
            ),
        ),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, block, kind: layer(stage, block, "shortcut", kind),
        ),
    )


TABLES = (Table("transformers", "resnet", _resnet, "classifier.1", TORCH),)
