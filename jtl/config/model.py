"""Options of the network."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from jtl.common.errors import UserError
from jtl.config import checks

PoolKind = Literal["avg", "max", "flatten"]

LARGEST_WIDTH = 2**16
"""Of a hidden layer; a wider one is a typing error, and takes all memory before that shows."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network and where its weights come from.

    Attributes:
        model: Backbone: resnet18, resnet34, resnet50, resnet101, resnet152, wide_resnet50_2,
            wide_resnet101_2, resnext50_32x4d, resnext101_32x8d, densenet121, densenet161,
            densenet169, densenet201, vgg11, vgg13, vgg16, vgg19, vgg11_bn, vgg13_bn, vgg16_bn,
            vgg19_bn, alexnet, squeezenet1_0, squeezenet1_1, inception_v3, mobilenet_v2,
            efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2.
        weights: Where the backbone's weights come from: 'default' (the model's ImageNet
            weights), 'timm:NAME' (a name of the timm hub, such as timm:resnet50.tv_in1k), an
            installed package as 'package:NAME', 'torchvision:NAME' (what PyTorch's cache holds,
            such as torchvision:alexnet), a checkpoint file (.safetensors, .pth, .h5, .keras),
            a folder that weights_convert wrote, or 'random'; see docs/conversion.md.
        entry: The entry of a PyTorch checkpoint in --weights to take, such as model_ema.
            Default: state_dict, model and the like, an average only if there is nothing else.
        strip_prefix: What stands before the network's keys in --weights, such as encoder_q. or
            backbone.; keys without it are ignored. Default: found out.
        ignore_keys: Ignores the keys of --weights that this regular expression matches as a
            whole, such as 'fc_aux.*'.
        bgr: The network of --weights expects blue first, as Caffe's do.
        head: What is put on the features: 'linear' (one dense layer), 'mlp' (hidden layers
            first, see --head-widths), 'append' (a dense layer on the logits of the weights'
            own classifier, which stays), 'conv' (a dense layer and ReLU on each pixel, pooled
            then, as in SqueezeNet), or a list such as bn,dense:256,dropout:.2 of what comes
            before the last dense layer; see docs/freezing.md.
        head_widths: Widths of the hidden layers of --head mlp, such as 1024,512.
        head_dropout: Dropout rate after each hidden layer of --head mlp.
        head_batch_norm: Batch normalization in each hidden layer of --head mlp.
        head_pool: How the last feature map becomes a vector: average or maximum over the
            pixels, or all values one after the other.
        aux_head: Trains InceptionV3's auxiliary head beside the head, as torchvision does: it
            hangs after stage 2, adds 0.4 of its own loss, and is no part of the results.
        truncate_at: Use the backbone only up to this stage, unit or layer, such as
            stage3/block1/conv3; names of Keras and torchvision are understood. Default: all
            of it.
        dtype: Number format of the computation; params and batch statistics stay float32.
    """

    model: str = "efficientnet_lite0"
    weights: str = "default"
    entry: str | None = None
    strip_prefix: str | None = None
    ignore_keys: str | None = None
    bgr: bool = False
    head: str = "linear"
    head_widths: Annotated[tuple[int, ...], checks.within(1, LARGEST_WIDTH)] = (512,)
    head_dropout: Annotated[float, checks.share] = 0.0
    head_batch_norm: bool = False
    head_pool: PoolKind = "avg"
    aux_head: bool = False
    truncate_at: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def check(self) -> None:
        """Checks what the options say together.

        Raises:
            UserError: They do not go together; the message names them.
        """
        if self.weights == "random":
            checks.idle(
                self,
                ("entry", "strip_prefix", "ignore_keys", "bgr"),
                "no effect with --weights random, only on how weights are read.",
            )
        if self.head != "mlp":
            checks.idle(
                self,
                ("head_widths", "head_dropout", "head_batch_norm"),
                f"no effect with --head {self.head}, only on the hidden layers of --head mlp. "
                "Add that, or write a list such as --head bn,dense:256,dropout:.2.",
            )
        elif not self.head_widths:
            raise UserError("--head-widths needs at least one width, such as 1024,512.")
        if self.head == "conv" and self.head_pool == "flatten":
            raise UserError("--head conv pools its logits: --head-pool avg or max, not flatten.")
