"""Other libraries' names of layers without params, and of params."""

from __future__ import annotations

import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.freeze import label_tree, parse
from jtl.models.chain import locate
from weights_convert.convert.layer_names import translate


@pytest.mark.parametrize(
    ("model", "name", "path"),
    [
        ("resnet50", "conv3_block1_out", "stage2/block1"),
        ("resnet50", "conv5_block3_out", "stage4/block3"),
        ("resnet50", "layer2.0", "stage2/block1"),
        ("resnet50", "pool1_pool", "stem"),
        ("resnet18", "maxpool", "stem"),
        ("densenet121", "conv3_block1_concat", "stage2/block1"),
        ("densenet121", "pool3_pool", "stage2/transition"),
        ("densenet121", "features.transition2.pool", "stage2/transition"),
        ("densenet121", "features.pool0", "stem"),
        ("densenet121", "relu", "final"),
        ("densenet121", "bn", "final/bn"),
        ("vgg16", "features.29", "stage5/block3"),
        ("vgg16", "features.30", "stage5/pool"),
        ("vgg16_bn", "features.42", "stage5/block3"),
        ("vgg19", "block5_conv4", "stage5/block4"),
        ("vgg19", "block5_pool", "stage5/pool"),
        ("alexnet", "features.12", "stage3/pool"),
        ("squeezenet1_1", "features.2", "stem"),
        ("squeezenet1_1", "features.5", "stage1/pool"),
        ("squeezenet1_1", "features.12", "stage3/block4"),
        ("mobilenet_v2", "features.4", "stage3/block1"),
        ("mobilenet_v2", "features.18.2", "final"),
        ("mobilenet_v2", "bn1.act", "stem"),
        ("mobilenet_v3_large", "features.4", "stage3/block1"),
        ("mobilenet_v3_small", "features.12.2", "final"),
        ("mobilenet_v3_small", "blocks.4.2", "stage5/block3"),
        ("mobilenet_v3_large", "bn1.act", "stem"),
        ("efficientnet_b0", "features.3.1", "stage3/block2"),
        ("efficientnet_b0", "block6d", "stage6/block4"),
        ("efficientnet_b2", "top_activation", "final"),
        ("efficientnet_v2_s", "features.4.5", "stage4/block6"),
        ("efficientnet_v2_b0", "block6h", "stage6/block8"),
        ("regnet_y_400mf", "trunk_output.block3.block3-5", "stage3/block6"),
        ("regnety_008", "s4.b2", "stage4/block2"),
        ("regnety_008", "stem.bn.act", "stem"),
        ("convnext_tiny", "stages.2.blocks.8", "stage3/block9"),
        ("convnext_tiny", "stages.1.downsample", "stage2/downsample"),
        ("convnext_tiny", "features.5.8", "stage3/block9"),
        ("convnext_tiny", "features.4", "stage3/downsample"),
        ("vit_small_patch16", "blocks.8", "stage3/block9"),
        ("vit_small_patch16", "block9", "stage3/block9"),
        ("vit_base_patch16", "encoder.layers.encoder_layer_8", "stage3/block9"),
        ("mnasnet1_0", "layers.9.2", "stage3/block3"),
        ("mnasnet1_0", "layers.16", "final"),
        ("semnasnet_100", "blocks.2.1", "stage3/block2"),
        ("hgnetv2_b0", "stages.2.blocks.1", "stage3/block2"),
        ("hgnetv2_b0", "head.last_conv", "fc"),
        ("resnet50d", "layer2.0", "stage2/block1"),
        ("resnet50d", "maxpool", "stem"),
        ("resnetv2_50x1_bit", "stages.3.blocks.2", "stage4/block3"),
        ("resnetv2_50x1_bit", "resnet/block2/unit01", "stage2/block1"),
        ("inception_v3", "mixed7", "stage2/block5"),
        ("inception_v3", "Mixed_6e", "stage2/block5"),
    ],
)
def test_a_layer_that_ends_a_unit_is_the_unit(model: str, name: str, path: str):
    assert translate(name, model) == path
    unit = path.removesuffix("/bn")
    units = models.create(model).units()
    assert units[locate(units, unit)].path == unit
    assert models.create(model, truncate_at=path).backbone.units()[-1].path == unit


@pytest.mark.parametrize(
    ("model", "name", "path"),
    [
        ("resnet18", "layer4.1.conv2.weight", "stage4/block2/conv2/kernel"),
        ("resnet18", "layer4.1.bn2.weight", "stage4/block2/bn2/scale"),
        ("resnet50", "conv3_block1_3_bn/beta", "stage2/block1/bn3/bias"),
        ("resnet18", "fc.bias", "head/logits/bias"),
        ("vgg16", "classifier.3.weight", "fc2/conv/kernel"),
        ("vgg16", "features.28.bias", "stage5/block3/conv/bias"),
        ("resnet101", "layer3.22.conv1.weight", "stage3/block23/conv1/kernel"),
        # Keras had no such model when it numbered blocks by letters.
        ("resnet101", "stage3/.*", "stage3/.*"),
        # Running statistics are no params: no rule can be about them.
        ("resnet18", "layer4.1.bn2.running_mean", "layer4.1.bn2.running_mean"),
    ],
)
def test_a_param_s_name_is_its_path(model: str, name: str, path: str):
    assert translate(name, model) == path


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        ("resnet50", "conv3_block1_2_relu", "Name stage2/block1/bn1, .* or stage2/block1 for"),
        ("resnet50", "conv3_block1_add", "Name stage2/block1/bn1, .* or stage2/block1 for"),
        ("resnet50", "conv1_relu", "Name stem/bn1, stem/conv1 for .* or stem for"),
        ("resnet50", "layer2.0.relu", "Name stage2/block1/bn1, .* or stage2/block1 for"),
        ("densenet121", "pool2_relu", "Name stage1/transition/bn, stage1/transition/conv for"),
        ("densenet121", "conv3_block1_1_relu", "Name stage2/block1/bn1, "),
        ("mobilenet_v2", "features.4.conv.0.2", "Name stage3/block1/bn1, "),
        ("efficientnet_lite0", "blocks.3.0.bn1.act", "Name stage4/block1/bn1, "),
        ("mobilenet_v3_small", "features.4.block.0.2", "Name stage3/block1/bn1, "),
        ("efficientnet_b0", "features.2.0.block.2.scale_activation", "Name stage2/block1/bn1, "),
        ("mobilenet_v3_large", "blocks.4.0.se.gate", "Name stage5/block1/bn1, "),
        ("convnext_tiny", "stages.2.blocks.0.mlp.act", "Name stage3/block1/conv_dw, "),
    ],
)
def test_a_place_without_a_name_says_what_has_one(model: str, name: str, said: str):
    with pytest.raises(UserError, match=f"^'{name}' is a layer without params .*{said}"):
        translate(name, model)


def test_a_rule_for_a_foreign_param_decides_that_param():
    params = models.variable_shapes(models.create("resnet18"), 64)["params"]
    text = "rules:layer4.1.conv2.weight=train;.*=frozen"
    labels = label_tree(parse(text, (), lambda name: translate(name, "resnet18")), params)
    block = labels["stage4"]["block2"]
    assert (block["conv2"]["kernel"], block["conv1"]["kernel"]) == ("backbone", "frozen")


def test_a_name_of_several_units_says_so():
    with pytest.raises(
        UserError, match=r"^'classifier' are several units here: fc1/conv, fc2/conv, "
    ):
        translate("classifier", "vgg16")
