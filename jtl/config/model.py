"""Options of the network."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from jtl.common.errors import UserError
from jtl.config import checks

PoolKind = Literal["avg", "max", "flatten"]

AUTO_MODEL = "auto:"
"""How `--model` begins where it is a choice and no name."""
PREFIX = "bfloat16_prefix"
"""Of `--dtype`: frozen layers compute in bfloat16, what trains in float32."""
LARGEST_WIDTH = 2**16
"""The widest hidden layer; a wider one is a typing error, and would take all memory."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network and where its weights come from.

    Attributes:
        model: Backbone: the pretrained network to start from, such as resnet50. One of resnet18,
            resnet34, resnet50, resnet101, resnet152, wide_resnet50_2,
            wide_resnet101_2, resnext50_32x4d, resnext101_32x8d, densenet121, densenet161,
            densenet169, densenet201, vgg11, vgg13, vgg16, vgg19, vgg11_bn, vgg13_bn, vgg16_bn,
            vgg19_bn, alexnet, squeezenet1_0, squeezenet1_1, inception_v3, mobilenet_v2,
            mobilenet_v3_large, mobilenet_v3_small, efficientnet_lite0, efficientnet_lite1,
            efficientnet_lite2, efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3,
            efficientnet_b4, efficientnet_v2_b0, efficientnet_v2_b1, efficientnet_v2_b2,
            efficientnet_v2_b3, efficientnet_v2_s, regnet_y_400mf, regnet_y_800mf, regnety_008,
            regnet_y_1_6gf, regnet_y_3_2gf, convnext_nano, convnext_tiny, convnext_small,
            convnext_base,
            vit_tiny_patch16, vit_small_patch16, vit_small_patch32, vit_base_patch16,
            vit_base_patch32, vit_small_patch14, vit_base_patch14, mnasnet0_5, mnasnet0_75,
            mnasnet1_0, mnasnet1_3, semnasnet_075, semnasnet_100, mnasnet_small, hgnetv2_b0,
            hgnetv2_b1, hgnetv2_b2, hgnetv2_b3, hgnetv2_b4, resnet18d, resnet26d, resnet34d,
            resnet50d, resnet101d, resnet152d or resnetv2_50x1_bit. Or auto:fast or auto:best, which
            choose by published accuracy and speed; see docs/backbones.md.
        weights: Pretrained weights: 'default' (the model's ImageNet weights) or another source.
            Others: 'timm:NAME' (from the timm hub, such as timm:resnet50.tv_in1k), 'package:NAME'
            (an installed package), 'torchvision:NAME' (from PyTorch's cache, such as
            torchvision:alexnet), a checkpoint file (.safetensors, .pth, .h5, .keras), a folder
            written by weights_convert, or 'random'; see docs/conversion.md.
        entry: Entry of the PyTorch checkpoint in --weights to read, such as model_ema. Default:
            state_dict, model or the like; averaged weights only if there is nothing else.
        strip_prefix: Prefix of the network's keys in --weights, such as encoder_q. or backbone.;
            keys without it are ignored. Default: detected.
        ignore_keys: Ignore the keys of --weights that match this regular expression entirely, such
            as 'fc_aux.*'.
        bgr: The weights expect blue-green-red images, as Caffe's do.
        head: Type of classifier head: 'linear' (one dense layer), 'mlp' (with hidden layers, see
            --head-widths), 'append' (a dense layer on top of the weights' own classifier), 'conv'
            (a dense layer and ReLU at each pixel, then pooling, as in SqueezeNet), or a list of
            layers before the last dense one, such as bn,dense:256,dropout:.2; see docs/freezing.md.
        head_widths: Widths of the hidden layers of --head mlp, such as 1024,512.
        head_dropout: Dropout rate after each hidden layer of --head mlp.
        head_batch_norm: Use batch normalization in each hidden layer of --head mlp.
        head_pool: Pooling of the final feature map: average, maximum, or flatten.
        aux_head: Also train InceptionV3's auxiliary head, as torchvision does: it follows stage 2,
            its loss has the weight 0.4, and predictions do not use it.
        truncate_at: Use the backbone only up to this stage, block or layer, such as
            stage3/block1/conv3; names of Keras and torchvision work too. Default: all of it.
        dtype: Number format of the computation: float32, bfloat16, bfloat16_prefix (layers before
            the first that trains in bfloat16, the rest in float32), or auto (bfloat16_prefix where
            this machine is faster so, which is measured once). Parameters and BatchNorm statistics
            stay float32.
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
    dtype: Literal["float32", "bfloat16", "bfloat16_prefix", "auto"] = "float32"

    def check(self) -> None:
        """Checks what the options say together.

        Raises:
            UserError: They do not go together; the message names them.
        """
        if self.weights == "random":
            checks.idle(
                self,
                ("entry", "strip_prefix", "ignore_keys", "bgr"),
                "no effect with --weights random; they change how weights are read.",
            )
        if self.head != "mlp":
            checks.idle(
                self,
                ("head_widths", "head_dropout", "head_batch_norm"),
                f"no effect with --head {self.head}; they change the hidden layers of --head "
                "mlp. Add that, or write a list such as --head bn,dense:256,dropout:.2.",
            )
        elif not self.head_widths:
            raise UserError("--head-widths needs at least one width, such as 1024,512.")
        if self.head == "conv" and self.head_pool == "flatten":
            raise UserError("--head conv needs --head-pool avg or max, not flatten.")
