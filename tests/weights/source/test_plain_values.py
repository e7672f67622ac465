"""What stands beside the tensors of a file, in settings and texts: taken, refused or named."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.common.errors import UserError
from support import weights_samples as samples
from weights_convert.read import readers
from weights_convert.source import arguments, plain_values, source_conversion, sources
from weights_convert.source.description import Source

torch = pytest.importorskip("torch")
LIBRARY = "timm/torchvision"
STATED = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.35]}
BYTES = {"mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]}
USUAL = (0.485, 0.456, 0.406)


def state(model="resnet18"):
    tensors = samples.tensors(model, LIBRARY)
    return {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}


def converted(tmp_path, model="resnet18", bgr=False, drop_head=False, **beside):
    file = tmp_path / "w.pth"
    torch.save({"state_dict": state(model), **beside}, file)
    source = sources.locate(str(file), model, bgr=bgr)
    return source_conversion.convert_source(source, model, drop_head=drop_head)


def described(tmp_path, **beside):
    """What is known of a file after its plain values were looked at."""
    file = tmp_path / "w.pth"
    torch.save({"state_dict": {"conv1.weight": torch.ones(1)}, **beside}, file)
    return plain_values.described(Source(file, "w.pth"), readers.read(file))


@pytest.mark.parametrize(
    "beside",
    [
        {**STATED, "class_names": ["a", "b"]},
        {"args": argparse.Namespace(model="resnet18", gp=None, **STATED)},
        {"args": {**STATED, "model": "resnet18"}},
        {"hyper_parameters": {"backbone": "resnet18", "normalize": STATED}},
        {"config": {"data": {"image_mean": STATED["mean"], "image_std": tuple(STATED["std"])}}},
        {"meta": {"config": "n = dict(\n    mean=[.5, 0.4,\n 0.3], std=[0.25, .2, .35,])"}},
        {"input_space": "RGB", "input_range": [0, 1], **STATED},
        {"args": STATED, **STATED},
        {"mean": [127.5, 102, 76.5], "std": [63.75, 51, 89.25]},
    ],
)
def test_a_stated_mean_and_deviation_are_taken(tmp_path, beside):
    found = described(tmp_path, **beside)
    assert found.preprocessing["mean"] == (0.5, 0.4, 0.3)
    assert found.preprocessing["std"] == (0.25, 0.2, 0.35)
    assert found.preprocessing_by == ("mean and std: plain values in the file",)
    (note,) = [note for note in found.notes if "come from" in note]
    assert "mean'" in note
    assert "std'" in note


def test_those_of_bytes_are_divided(tmp_path):
    text = "cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)"
    found = converted(tmp_path, meta={"config": text})
    assert found.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert any("divided by 255" in note for note in found.notes)
    assert found.preprocessing.channel_order == "rgb"


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"input_space": "BGR", "input_range": [0, 255], **BYTES}, "'input_space' is BGR"),
        (
            {"meta": {"config": f"dict(mean={BYTES['mean']}, std=[1, 1, 1], to_rgb=False)"}},
            "to_rgb",
        ),
        ({"args": BYTES}, "blue, green, red"),
        ({"input_space": "HSV", **STATED}, "'input_space' is HSV"),
        ({"input_range": [0, 255], **STATED}, "input_range is"),
        ({"input_range": [-1, 1], **STATED}, "input_range is"),
        ({"mean": [0.5], "std": [0.5]}, "'mean' is (0.5,) and 'std' is (0.5,)"),
        ({"mean": 0.5, "std": 0.5}, "three numbers"),
        ({"mean": torch.ones(3) / 2, "std": torch.ones(3)}, "no plain value"),
        ({"mean": np.ones(3) / 2, "std": np.ones(3)}, "no plain value"),
        ({"mean": [0.5, "x", 1], "std": [1, 1, 1]}, "something else"),
        ({"mean": [0.5, 0.4, 10**400], "std": [1, 1, 1]}, "something else"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1]}, "they change nothing"),
        ({"mean": [0.5, 120, 110], "std": [1, 1, 1]}, "not clear"),
        ({"args": STATED, "config": {**STATED, "std": [1, 1, 1]}}, "contradict each other"),
        ({"config": "mean=[0.5,0.4,0.3], std=[1,1,1], mean=[0,0,0.1]"}, "not the same everywhere"),
    ],
)
def test_what_is_unclear_is_named_and_not_used(tmp_path, beside, named):
    found = described(tmp_path, **beside)
    assert not found.preprocessing
    text = " ".join(found.notes)
    assert named in text
    assert "--mean R,G,B" in text


def test_bgr_is_taken_where_it_is_asked_for(tmp_path):
    """The way that the note offers."""
    beside = {"input_space": "BGR", "input_range": [0, 255], **BYTES}
    found = converted(tmp_path, bgr=True, **beside)
    assert found.preprocessing.mean == pytest.approx(USUAL)
    assert found.preprocessing.channel_order == "bgr"
    assert not any("not used" in note for note in found.notes)


def test_a_better_source_comes_first(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1] * 3, "std": [1] * 3}}
        )
    )
    assert converted(tmp_path, args=STATED).preprocessing.mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"args": {"mean": None, "std": None, "gp": None}},
        {"mean": 0.93},
        {"config": {"global_pool": "avg", "act_layer": "torch.nn.ReLU(inplace=True)"}},
        {"config": {"global_pool": True, "act_layer": "", "style": "dark", "to_rgb": True}},
        {"config": {"head": {"act_layer": "gelu"}, "decoder": {"global_pool": "max"}}},
        {"optimizer": {"state": {"mean": [1, 2, 3], "std": [1, 2, 3]}}},
        {"results": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}},
        {"meta": {"config": "backbone=dict(type='ResNet', style='caffe')"}},
    ],
)
def test_what_changes_nothing_is_not_mentioned(tmp_path, beside):
    found = described(tmp_path, **beside)
    assert not found.preprocessing
    assert not found.notes
    for built in found.built:
        arguments.check(built, "w", "resnet18", {}, 10)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"hyper_parameters": {"act_layer": "silu"}}, "act_layer='silu'"),
        ({"config": {"model": {"backbone": {"act_layer": "nn.GELU"}}}}, "act_layer='GELU'"),
        ({"hyper_parameters": {"global_pool": "max"}}, "pooled by max"),
        ({"config": json.dumps({"global_pool": "avgmax"})}, "pooled by avgmax"),
        ({"args": argparse.Namespace(global_pool="gem")}, "pooled by gem"),
    ],
)
def test_what_contradicts_the_network_is_refused(tmp_path, beside, named):
    (built,) = described(tmp_path, **beside).built
    with pytest.raises(UserError, match="says that") as caught:
        arguments.check(built, "w", "resnet18", {}, 10)
    assert named in str(caught.value)


def test_another_pooling_is_no_matter_without_the_classifier(tmp_path):
    """The way that the refusal offers."""
    beside = {"hyper_parameters": {"global_pool": "max"}}
    with pytest.raises(
        UserError, match=r"'hyper_parameters' says that .* pooled by max.*--drop-head"
    ):
        converted(tmp_path, **beside)
    assert converted(tmp_path, drop_head=True, **beside).num_classes is None


def test_the_strides_of_caffe_are_refused(tmp_path):
    text = "model = dict(backbone=dict(type='ResNet', depth=50, style='caffe'))"
    with pytest.raises(UserError, match=r"meta\.config'.*style='caffe'"):
        converted(tmp_path, "resnet50", drop_head=True, meta={"config": text})


def test_the_header_of_a_safetensors_file_counts(tmp_path):
    file = tmp_path / "w.safetensors"
    tensors = {k: np.ascontiguousarray(v) for k, v in samples.tensors("resnet18", LIBRARY).items()}

    def saved(**config):
        save_file(tensors, file, {"format": "pt", "config": json.dumps(config)})
        return source_conversion.convert_source(sources.locate(str(file), "resnet18"), "resnet18")

    assert saved(pretrained_cfg=STATED).preprocessing.mean == (0.5, 0.4, 0.3)
    with pytest.raises(UserError, match="pooled by max"):
        saved(architecture="resnet18", global_pool="max")


def test_anything_may_stand_there():
    """Neither values that contain themselves nor many of them take long."""
    loop: dict = {"mean": [0.5] * 3}
    loop |= {"config": loop, "args": {"config": loop}}
    wide = {"config": {f"config{n}": "mean=" + "[" * 100_000 for n in range(5000)}}
    assert list(plain_values._said(loop, ())) == []
    assert list(plain_values._said(wide, ())) == []
    odd = {"config" * 100_000 + "!": {}, 10**5000: {}, "mean": 10**5000, "std": {}}
    ((place, values),) = plain_values._said(odd, ())
    assert (place, values) == ("", {"mean": "no plain value", "std": "no plain value"})
    assert list(plain_values._said({1: 2, "args": 3, "config": "{" * 100_000}, ())) == []


def test_a_stated_way_of_resizing_is_named(tmp_path):
    """timm's training keeps its options in `args`, most of them empty."""
    said = {"interpolation": "bilinear", "input_size": (3, 160, 160), "crop_pct": None}
    (note,) = described(tmp_path, args=argparse.Namespace(model="resnet18", **said)).notes
    assert "'args.interpolation' is bilinear" in note.replace("'bilinear'", "bilinear")
    assert "--interpolation and --input-size" in note
    assert "crop" not in note
    file = tmp_path / "w.pth"
    known = Source(file, "w.pth", preprocessing={"interpolation": "bicubic", "size": 224})
    assert not plain_values.described(known, readers.read(file)).notes


RANGES = {
    "only scaled": ({"normalize": False, "input_range": [0, 1]}, 0.0, 1.0),
    "bytes": ({"normalize": False, "input_range": [0, 255]}, 0.0, 1 / 255),
    "of transformers": ({"do_normalize": False}, 0.0, 1.0),
    "around 0": ({"args": {"input_range": (-1, 1)}}, 0.5, 0.5),
}


@pytest.mark.parametrize("case", RANGES)
def test_the_range_of_images_that_are_not_normalized(tmp_path, case):
    beside, mean, std = RANGES[case]
    found = described(tmp_path, **beside)
    assert found.preprocessing == {"mean": (mean,) * 3, "std": (std,) * 3}
    assert "come from '" in found.notes[0]


DOUBTFUL = {
    "feature vectors, perhaps": ({"args": {"normalize": False}}, "may mean that images are only"),
    "both": ({"normalize": False, **STATED}, "'normalize' is False, beside a mean and std"),
    "others": ({"args": {"normalization": "clip"}}, "'args.normalization' is clip, which is not"),
    "bytes": ({"input_range": [0, 255]}, "'input_range' is (0, 255), which is not used"),
    "size": ({"img_size": 64}, "'img_size' is 64, which is not used. If the weights expect it"),
    "three": ({"range": 1, "args": {"do_normalize": False}, **STATED}, "they contradict each oth"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_may_be_said_of_the_range_is_named(tmp_path, case):
    beside, told = DOUBTFUL[case]
    found = described(tmp_path, **beside)
    assert "mean" not in found.preprocessing
    assert any(told in note for note in found.notes)


@pytest.mark.parametrize("beside", [{"normalization": "batch"}, {"img_size": 224}, {"x": None}])
def test_other_values_say_nothing_of_the_range(tmp_path, beside):
    assert described(tmp_path, args=beside).notes == ()


@pytest.mark.parametrize(
    ("resize", "told"),
    [
        ("Resize(size=256)", "'transform.interpolation' is bilinear and 'transform.crop_pct' is "),
        (
            "Resize(size=256, interpolation=bicubic, max_size=None, antialias=True)",
            "'transform.interpolation' is bicubic and 'transform.crop_pct' is 0.875",
        ),
        (
            "Resize([256], interpolation=InterpolationMode.BICUBIC)",
            "'transform.interpolation' is b",
        ),
        ("Resize(size=(256, 256), interpolation=bilinear)", None),
        ("Resize(size=128)", None),
    ],
)
def test_how_transforms_of_torchvision_frame_images_is_told(tmp_path, resize, told):
    text = f"Compose(\n {resize}\n CenterCrop(size=(224, 224))\n Normalize(mean=[0.5, 0.5, 0.5], "
    found = described(tmp_path, transform=f"{text}std=[0.5, 0.5, 0.5])\n)")
    notes = [note for note in found.notes if "not used" in note]
    assert found.preprocessing["mean"] == (0.5, 0.5, 0.5)
    assert "crop_pct" not in found.preprocessing
    if told is None:
        assert notes == []
    else:
        (note,) = notes
        assert note.startswith(told)
        assert note.endswith("If the weights expect it: --interpolation and --crop-pct")
