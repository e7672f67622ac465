"""What `preprocessor_config.json` of transformers says of images."""

from __future__ import annotations

from typing import Any

import pytest

from jtl.common.errors import UserError
from weights_convert.source import metadata

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
USUAL = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "image_mean": MEAN,
         "image_std": STD, "size": {"shortest_edge": 256}, "resample": 3}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "fields", "note"),
    [
        ({}, {"mean": (*MEAN,), "std": (*STD,), "size": 256}, ""),
        ({"do_normalize": False}, {"mean": (0, 0, 0), "std": (1, 1, 1)}, ""),
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
            {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
            "",
        ),
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3},
            {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)},
            "",
        ),
        ({"do_rescale": False}, {"mean": (*MEAN,)}, "do_rescale"),
        ({"rescale_factor": "x"}, {"mean": (*MEAN,)}, "rescale_factor"),
        ({"do_flip_channel_order": True, "do_normalize": False},
         {"channel_order": "bgr", "mean": (0, 0, 0), "std": (1, 1, 1)}, ""),
        ({"do_flip_channel_order": True, "image_mean": None, "image_std": None},
         {"channel_order": "bgr", "mean": (0, 0, 0)}, ""),
        ({"do_flip_channel_order": True}, {"channel_order": None, "mean": (*MEAN,)}, "--bgr"),
        ({"crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
         {"size": 224, "crop_pct": 0.875}, ""),
        ({"crop_size": 192}, {"size": 192, "crop_pct": 0.75}, ""),
        ({"crop_size": 192, "do_center_crop": False}, {"size": 256, "crop_pct": None}, ""),
        ({"size": {"height": 64, "width": 64}}, {"size": 64, "crop_pct": 1.0}, "--fit squash"),
        ({"size": {"longest_edge": 64}}, {"size": None}, "size in the"),
        ({"size": 160, "crop_pct": 0.9}, {"size": 160, "crop_pct": 0.9}, ""),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, {"size": 224, "crop_pct": 0.875}, ""),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875},
         {"size": 384, "crop_pct": 1.0}, "from 384 pixels on"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
         {"size": 224, "crop_pct": 0.875}, ""),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 512, "crop_pct": None},
         {"size": 512, "crop_pct": 1.0}, "--fit squash"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 384},
          "crop_pct": 0.9}, {"size": 384, "crop_pct": 0.9}, ""),
        ({"resample": 0}, {"interpolation": None}, "resample"),
        ({"do_pad": True}, {}, "do_pad"),
    ],
)  # fmt: skip
def test_fields(said: dict[str, Any], fields: dict[str, Any], note: str):
    found = metadata.of_transformers({"model_type": "resnet"}, {**USUAL, **said})
    assert {key: found.preprocessing.get(key) for key in fields} == fields
    assert len(found.notes) == bool(note)
    assert all(note in text for text in found.notes)


def test_sides_that_differ_are_refused():
    with pytest.raises(UserError, match="is not square"):
        metadata.of_transformers({}, {"size": {"height": 64, "width": 96}})
