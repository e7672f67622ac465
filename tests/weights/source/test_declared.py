"""What a source says of itself: architecture, preprocessing, pooling; and who is believed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl import models, weights
from jtl.common.errors import UserError
from jtl.common.text import for_markdown
from support import weights_samples as samples
from weights_convert.__main__ import main
from weights_convert.checkpoint import folder
from weights_convert.convert import relatives
from weights_convert.convert.tables import torchvision_name
from weights_convert.export import writer
from weights_convert.read import readers
from weights_convert.source import architectures, arguments, same_keys, source_conversion, sources
from weights_convert.source.description import Source
from weights_convert.verify import peers

MODEL = samples.MODEL
SYMMETRIC = {"norm": models.NormSpec(epsilon=1e-5, momentum=0.9), "padding": "symmetric"}
RESNET = "timm/torchvision"


@pytest.fixture
def lite(tmp_path) -> Path:
    return samples.write_file(tmp_path / "lite.safetensors")


@pytest.fixture
def resnet18(tmp_path) -> Path:
    return samples.write_file(tmp_path / "r18.safetensors", samples.tensors("resnet18", RESNET))


def beside(file: Path, **config) -> None:
    (file.parent / "config.json").write_text(json.dumps(config))


def with_header(file: Path, arrays=None, **metadata: str) -> Path:
    arrays = samples.tensors() if arrays is None else arrays
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    save_file(contiguous, file, {"jtl": "1", **metadata})
    return file


def converted(file: Path, model: str | None = None, **options):
    return source_conversion.convert_source(sources.locate(str(file), model, **options), model)


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a conversion that must be refused, and gives its message."""

    def run(file: Path, *flags: str) -> str:
        assert main([str(file), "--out", str(tmp_path / "out"), *flags]) == 2
        assert not (tmp_path / "out").exists()
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return run


# Which Lite.


def test_a_guess_is_called_one_everywhere(lite, tmp_path, capsys):
    assert main([str(lite), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert (
        f"note           a guess: nothing states whether these are weights of timm's tf_{MODEL}"
        in (said)
    )
    found = folder.read(tmp_path / "out")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("a guess: ")
    assert "--architecture efficientnet_lite0" in found.notes[0]
    assert for_markdown(found.notes[0]) in (tmp_path / "out" / "README.md").read_text()
    told: list[str] = []
    weights.resolve(str(lite), MODEL, tmp_path / "cache", told.append)
    assert any("a guess: " in line for line in told)


@pytest.mark.parametrize(
    ("name", "beside_them", "stated"),
    [
        ("a.pth", {"arch": MODEL}, MODEL),
        ("a.pth", {"args": {"model": MODEL}}, MODEL),
        ("a.pth", {"args": {"model": f"tf_{MODEL}"}}, f"tf_{MODEL}"),
        ("a.ckpt", {"hyper_parameters": {"model_name": MODEL}}, MODEL),
        (f"{MODEL}_best.pth", {}, MODEL),
        (f"{MODEL}.pth", {"arch": MODEL}, MODEL),
        (f"tf_{MODEL}-0aa007d2.pth", {}, f"tf_{MODEL}"),
        (f"{MODEL}.pth", {"arch": f"tf_{MODEL}"}, None),
        ("efficientnet_lite3.pth", {}, None),
        ("a.pth", {"arch": "resnet18", "teacher": MODEL}, None),
    ],
)
def test_names_beside_the_weights_say_which_it_is(name, beside_them, stated):
    file = readers.SourceFile("torch-zip", {}, value=beside_them)
    seen = SimpleNamespace(model=MODEL, library="timm", shown={})
    source = Source(Path(name), name)
    found = same_keys.stated(source, file, cast(Any, seen))
    assert (found and found.architecture.name) == stated
    symmetric = {"padding", "norm"} if stated == MODEL else set()
    assert {*(found.conventions if found else {})} == symmetric
    keras = SimpleNamespace(model=MODEL, library="keras", shown={})
    assert same_keys.stated(source, file, cast(Any, keras)) is None


def test_the_name_of_a_file_says_which_it_is(tmp_path):
    found = converted(samples.write_file(tmp_path / f"{MODEL}_best.safetensors"))
    assert found.conventions == SYMMETRIC
    assert found.notes[0].startswith(f"the file's name says {MODEL}, so ")


def test_networks_of_the_same_keys_expect_other_images(tmp_path):
    arrays = samples.tensors("mobilenet_v3_small", "timm")
    found = converted(samples.write_file(tmp_path / "tf_mobilenetv3_small_100.safetensors", arrays))
    assert (found.conventions["padding"], found.conventions["norm"].epsilon) == ("SAME", 1e-3)
    half = models.Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), interpolation="bilinear")
    assert found.preprocessing == half
    plain = converted(samples.write_file(tmp_path / "x.safetensors", arrays))
    assert (plain.conventions, plain.preprocessing) == ({}, models.Preprocessing())
    assert "taken for mobilenetv3_small_100 (symmetric padding, epsilon 1e-05)" in plain.notes[0]


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "conventions"),
    [
        ("efficientnet_lite0", SYMMETRIC),
        ("tf_efficientnet_lite0", {"norm": models.NormSpec(epsilon=1e-3, momentum=0.9)}),
    ],
)
def test_the_flag_says_which_it_is(lite, tmp_path, name, conventions, capsys):
    out = tmp_path / "out"
    assert main([str(lite), "--out", str(out), "--architecture", name]) == 0
    assert "a guess" not in capsys.readouterr().out
    found = folder.read(out)
    assert found.conventions == conventions
    assert found.notes == ()
    # The peer is the same network.
    peer = peers.load(found, sources.locate(str(lite), architecture=name))
    assert peer.reference.startswith(f"{name} of timm ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--architecture", "efficientnet_lite9"], "which jtl does not support. Did you mean"),
        (["--architecture", "resnet18"], f"of resnet18, but its tensors are those of {MODEL}"),
        (["--architecture", "resnet18", "--model", MODEL], f"resnet18, but the model is {MODEL}"),
    ],
)
def test_a_flag_that_cannot_be(lite, refused, flags, message):
    assert message in refused(lite, *flags)


def test_lukemelas_is_never_symmetric(tmp_path, refused):
    file = samples.write_file(tmp_path / "l.safetensors", samples.tensors(MODEL, "lukemelas"))
    assert converted(file, architecture=f"tf_{MODEL}").notes == ()
    message = refused(file, "--architecture", MODEL)
    assert "its keys are lukemelas's, whose network is timm's tf_efficientnet_lite0" in message


# Architectures that a file states.


@pytest.mark.parametrize("model", [[], ["--model", "resnet18"]])
@pytest.mark.parametrize("name", ["resnetblur18", "efficientnet_lite9", "\ud800", "x" * 10_000])
def test_an_architecture_that_jtl_does_not_have(resnet18, refused, name, model):
    beside(resnet18, architecture=name)
    message = refused(resnet18, *model)
    assert "the config.json next to it says that 'r18.safetensors' holds weights of " in message
    assert "which jtl does not support" in message
    assert len(message) < 2000
    (resnet18.parent / "config.json").unlink()
    if name != "\ud800":
        with_header(resnet18, samples.tensors("resnet18", RESNET), architecture=name)
        assert "the file's header says" in refused(resnet18, *model)


def test_a_wrong_configuration_can_be_overruled(resnet18):
    beside(resnet18, architecture="resnetblur18", pretrained_cfg={"mean": [0.1, 0.2, 0.3]})
    found = converted(resnet18, architecture="resnet18")
    assert (found.model, found.conventions) == ("resnet18", {})
    assert found.preprocessing.mean == (0.1, 0.2, 0.3)


def test_both_facts_are_in_one_message(resnet18, refused):
    beside(resnet18, architecture="efficientnet_lite0")
    facts = "holds weights of efficientnet_lite0, but its tensors are those of resnet18"
    assert facts in refused(resnet18)
    message = refused(resnet18, "--model", "resnet18")
    assert "but the model is resnet18, and its tensors are those of resnet18. If resnet18 is" in (
        message
    )
    assert "correct or remove what says efficientnet_lite0" in message


@pytest.mark.parametrize(
    "name", ["tv_resnet18", "ssl_resnet18", "ig_resnet18", "gluon_resnet18_v1b"]
)
def test_timms_old_names(resnet18, name):
    beside(resnet18, architecture=name)
    assert converted(resnet18).model == "resnet18"


def test_a_name_on_the_hub_must_be_known_even_with_a_model():
    with pytest.raises(UserError, match="uses the architecture resnetblur50, which jtl does not"):
        sources.locate("timm:resnetblur50.bt_in1k", "resnet50")


@pytest.mark.peer
def test_every_timm_network_of_these_keys_is_told_apart():
    # What timm calls otherwise is another network; what jtl knows is one of timm's, of
    # torchvision's or of Keras's.
    import timm
    import torchvision

    known = {name for name in architectures._known() if name[0].islower()} - {*models.names()}
    assert known <= {*timm.list_models(), *torchvision.models.list_models()}
    for name in ("resnetblur50", "resnet50t", "resnet50c", "densenet264d", "efficientnet_b5"):
        assert architectures.find(name) is None


def test_a_configuration_says_nothing_of_keras(tmp_path):
    table_tensors = samples.tensors("densenet121", "keras")
    file = tmp_path / "d.weights.h5"
    write_h5(file, table_tensors)
    beside(file, architecture="resnet18", pretrained_cfg={"mean": [0.1, 0.2, 0.3]})
    found = converted(file)
    assert found.model == "densenet121"
    assert found.preprocessing == models.Preprocessing()


def write_h5(file: Path, arrays) -> None:
    import h5py

    with h5py.File(file, "w") as h5:
        layers = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
        h5.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            keys = [key for key in arrays if key.rpartition("/")[0] == layer]
            group = h5.create_group(layer)
            group.attrs["weight_names"] = [key.encode() for key in keys]
            for key in keys:
                group[key] = arrays[key]


# How a library built the network, where no key shows it.


@pytest.mark.parametrize("pool", ["max", "avgmax", "catavgmax", ""])
def test_another_pooling_is_refused_with_a_classifier(pool):
    for config in ({"global_pool": pool}, {"model_args": {"global_pool": pool}}):
        built = arguments.of_timm(config, "the file")
        arguments.check(built, "y", "resnet18", {}, None)
        with pytest.raises(UserError, match=f"features pooled by {pool or 'nothing'}.*--drop-head"):
            arguments.check(built, "y", "resnet18", {}, 5)


def test_another_pooling_is_refused_but_for_the_backbone(resnet18, tmp_path, refused):
    beside(resnet18, architecture="resnet18", global_pool="avgmax")
    message = refused(resnet18)
    assert "the config.json next to it says that the classifier of 'r18.safetensors'" in message
    assert main([str(resnet18), "--out", str(tmp_path / "bare"), "--drop-head"]) == 0
    with pytest.raises(UserError, match="pooled by"):
        weights.resolve(str(resnet18), "resnet18", tmp_path / "cache")


@pytest.mark.parametrize(
    "argument",
    [
        {"output_stride": 8},
        {"stem_type": "deep"},
        {"act_layer": "silu"},
        {"aa_layer": "avg"},
        {"avg_down": True},
        {"replace_stem_pool": True},
        {"block_args": {"attn_layer": "se"}},
        {"norm_layer": "groupnorm"},
        {"bn_eps": 1e-3},
        {"what_jtl_has_never_heard_of": 1},
    ],
)
def test_an_argument_that_changes_the_network_is_refused_by_name(argument):
    ((name, value),) = argument.items()
    with pytest.raises(UserError, match=f"built with {name}=") as caught:
        arguments.check(arguments.of_timm({"model_args": argument}, "x"), "y", "resnet18", {}, None)
    assert f"{value!r}, which jtl's resnet18 does not have" in str(caught.value)


def test_arguments_are_refused_with_a_model_and_without_a_head_too(resnet18, refused):
    beside(resnet18, architecture="resnet18", model_args={"output_stride": 8})
    for flags in ([], ["--model", "resnet18", "--drop-head"]):
        assert "'r18.safetensors' was built with output_stride=8, which" in refused(
            resnet18, *flags
        )


def test_harmless_arguments_are_let_through(resnet18):
    harmless = {"drop_rate": 0.2, "drop_path_rate": 0.1, "num_classes": 5, "in_chans": 3}
    harmless |= {"zero_init_last": False, "output_stride": 32, "act_layer": "relu", "stem_type": ""}
    harmless |= {"global_pool": "avg", "aa_layer": None, "layers": [2, 2, 2, 2], "bn_eps": 1e-5}
    beside(resnet18, architecture="resnet18", model_args=harmless, global_pool="avg")
    assert converted(resnet18).num_classes == 5


@pytest.mark.parametrize(
    "argument",
    [
        {"norm_layer": "BatchNorm2d"},
        {"norm_layer": "batch_norm_2d"},
        {"out_indices": [1, 2]},
        {"block_args": []},
        {"device": "cuda"},
        {"dtype": "bfloat16"},
        {"strict": True},
        {"what_jtl_has_never_heard_of": False},
        {"what_jtl_has_never_heard_of": None},
        {"what_jtl_has_never_heard_of": []},
    ],
)
def test_arguments_that_change_nothing(argument):
    arguments.check(arguments.of_timm({"model_args": argument}, "x"), "y", "resnet18", {}, 5)


@pytest.mark.parametrize(
    ("gp", "pool"), [(10.0, None), (True, None), ("yes", None), ("max", "max")]
)
def test_a_gp_is_a_pooling_where_it_names_one(gp, pool):
    assert arguments.of_training({"gp": gp}).pool == pool


def test_what_is_usual_depends_on_the_network(lite, refused):
    usual = {"act_layer": "relu6", "bn_eps": 1e-3, "pad_type": "same"}
    beside(lite, architecture=f"tf_{MODEL}", model_args=usual)
    assert converted(lite).model == MODEL
    beside(lite, architecture=MODEL, model_args=usual)
    assert "was built with bn_eps=0.001, pad_type='same', which" in refused(lite)
    beside(lite, architecture=f"tf_{MODEL}", model_args={"act_layer": "relu"})
    assert "was built with act_layer='relu', which" in refused(lite)


@pytest.mark.parametrize(
    "stated",
    [
        {"hidden_act": "gelu"},
        {"downsample_in_first_stage": True},
        {"downsample_in_bottleneck": True},
    ],
)
def test_transformers_networks_of_other_arguments_are_refused(tmp_path, refused, stated):
    tensors = samples.tensors("resnet18", "transformers")
    file = samples.write_file(tmp_path / "model.safetensors", tensors)
    beside(file, model_type="resnet", **{"hidden_act": "relu"})
    assert converted(file).library == "transformers"
    beside(file, model_type="resnet", **{"hidden_act": "relu"} | stated)
    ((name, value),) = stated.items()
    assert f"was built with {name}={value!r}" in refused(file)


# Networks that have the keys of another.


def test_a_name_tells_what_no_key_does(resnet18, tmp_path, refused):
    file = resnet18.rename(tmp_path / "resnetblur18-84f4748f.safetensors")
    for flags in ([], ["--model", "resnet18"]):
        message = refused(file, *flags)
        assert "its name says that 'resnetblur18-84f4748f.safetensors' holds weights of " in message
        assert "resnetblur18, which jtl does not support" in message
        assert "--architecture" in message
    assert converted(file, architecture="resnet18").model == "resnet18"
    # A configuration knows better than a name.
    beside(file, architecture="resnet18")
    assert converted(file).model == "resnet18"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnetaa50-abc.pth", "resnetaa50"),
        ("timm_resnetblur50.bt_in1k", "resnetblur50"),
        ("resnet50-blurred.pth", None),
        ("myresnetaa50.pth", None),
        ("resnetaa.pth", None),
        ("my_resnetaa50d.pth", None),
        ("resnet50_os8.pth", "resnet50_os8"),
        ("dilated_resnet101-x.pth", "dilated_resnet101"),
        ("resnet50-output_stride=16.pth", "resnet50-output_stride=16"),
        ("resnet50_os80.pth", None),
        ("resnet50_photos8.pth", None),
    ],
)
def test_names_that_speak_of_another_network(name, found):
    assert relatives.named(name) == found


FOLDERS = {
    "resnetblur18.bt_in1k/model.safetensors": True,
    "models--timm--resnetblur18.bt_in1k/snapshots/0a1b2c/model.safetensors": True,
    "resnet18_os8/model.safetensors": True,
    "resnetblur18-compared/resnet18.safetensors": False,
    "resnetblur18/runs/model.safetensors": False,
    "models--timm--resnet18.a1_in1k/snapshots/0a1b2c/model.safetensors": False,
}


@pytest.mark.parametrize("place", FOLDERS)
def test_the_name_of_a_folder_tells_too(resnet18, tmp_path, refused, place):
    (tmp_path / place).parent.mkdir(parents=True)
    file = resnet18.rename(tmp_path / place)
    for given in (file, file.parent):
        if FOLDERS[place]:
            assert "the name of its folder says that '" in (message := refused(given)), message
        elif given == file or file.name == "model.safetensors":
            assert converted(given).model == "resnet18"
    assert converted(file, architecture="resnet18").model == "resnet18"


@pytest.mark.parametrize(
    "config",
    [
        {"pretrained_cfg": {"hf_hub_id": "timm/resnetblur18.bt_in1k"}},
        {"pretrained_cfg": {"url": "https://x/resnetblur18-84f4748f.pth"}},
        {"pretrained_cfg": {"architecture": "resnetblur18"}},
        {"model_type": "resnet", "_name_or_path": "timm/resnetblur18"},
        {"model_type": "timm_backbone", "backbone": "resnetblur18"},
        {"architecture": "resnet18", "model_args": {"output_stride": 8}},
        {"model_type": "timm_backbone", "backbone": "resnet18", "output_stride": 8},
        {"model_args": {"replace_stride_with_dilation": [False, True, True]}},
    ],
    ids=str,
)
def test_a_configuration_tells_what_no_key_does(resnet18, refused, config):
    beside(resnet18, **config)
    message = refused(resnet18)
    assert "config.json next to it says that" in message, message
    assert "resnetblur18" in message or "stride" in message


@pytest.mark.parametrize(
    "stated",
    [
        {"model": "resnetblur18.bt_in1k"},
        {"architecture": "resnetblur18"},
        {"output_stride": "8"},
        {"model_args": '{"output_stride": 8}'},
        {"replace_stride_with_dilation": "[False, True, True]"},
        {"model_kwargs": '{"aa_layer": "blurpool"}'},
    ],
    ids=str,
)
def test_headers_of_others_tell_what_no_key_does(tmp_path, refused, stated):
    arrays = samples.tensors("resnet18", RESNET)
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    file = tmp_path / "renamed.safetensors"
    save_file(contiguous, file, {"format": "pt", **stated})
    assert "the file's header says that " in (message := refused(file)), message
    harmless = {"format": "pt", "model": "resnet18", "output_stride": "32", "model_args": "{"}
    save_file(contiguous, file, harmless)
    assert converted(file).model == "resnet18"


@pytest.mark.peer
def test_the_options_of_a_timm_training_are_read(resnet18, tmp_path, refused):
    """`train.py` keeps them beside the weights, as a Namespace."""
    import argparse

    import torch

    state = {k: torch.from_numpy(v.copy()) for k, v in samples.tensors("resnet18", RESNET).items()}
    file = tmp_path / "checkpoint-12.pth.tar"

    def save(**options) -> Path:
        args = argparse.Namespace(model="resnet18", gp=None, bn_eps=None, lr=0.1, **{})
        vars(args).update(options)
        torch.save({"epoch": 12, "arch": "resnet18", "state_dict": state, "args": args}, file)
        return file

    assert converted(save()).num_classes == 5
    said = "its training's configuration says"
    assert "holds weights of resnetblur18, which" in refused(save(model="resnetblur18"))
    assert "stands on features pooled by max" in refused(save(gp="max"))
    assert f"{said} that the network of" in refused(save(model_kwargs={"output_stride": 8}))
    assert "was built with bn_eps=0.001, which" in refused(save(bn_eps=1e-3))
    assert converted(save(model_kwargs={"drop_path_rate": 0.1}, bn_eps=1e-5)).model == "resnet18"


# Headers.


PREPROCESSING = {"size": 64, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "crop_pct": 1.0}


def test_what_a_header_states_is_said_to_be_the_headers(tmp_path, capsys):
    stated = json.dumps(PREPROCESSING)
    file = with_header(tmp_path / "x.safetensors", preprocessing=stated, architecture=MODEL)
    assert main([str(file), "--out", str(tmp_path / "out"), "--crop-pct", "0.5"]) == 0
    assert "(the flags, the file's header)" in capsys.readouterr().out
    found = folder.read(tmp_path / "out")
    assert (found.preprocessing.size, found.preprocessing.crop_pct) == (64, 0.5)
    assert found.conventions == SYMMETRIC


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"preprocessing": "{"}, "preprocessing is no JSON"),
        ({"preprocessing": "[" * 100_000}, "preprocessing is no JSON"),
        ({"preprocessing": '{"a": 1}'}, "preprocessing is '{'a': 1}'"),
        ({"preprocessing": "3"}, "preprocessing is '3'"),
        ({"preprocessing": '{"size": Infinity}'}, "input_size: inf is not a number of pixels"),
        ({"preprocessing": '{"size": 0}'}, "input_size: 0 is too small"),
        ({"preprocessing": '{"size": 64, "crop_pct": 0}'}, "crop_pct: 0 is not a share"),
        ({"preprocessing": '{"size": 64, "std": [1, 0, 1]}'}, "std: '[1, 0, 1]' holds a number"),
        ({"preprocessing": '{"size": 64, "mean": [1, NaN, 1]}'}, "mean: '[1, nan, 1]' is not"),
        ({"preprocessing": '{"size": 64, "mean": [103.9, 1, 1]}'}, "divide mean and std by 255"),
        ({"class_names": '["a", "\\ud800"]'}, "class name 1 is half a character"),
    ],
)
def test_a_header_that_cannot_be(tmp_path, refused, metadata, message):
    said = refused(with_header(tmp_path / "x.safetensors", **metadata))
    assert "the file's header cannot be used: " in said
    assert message in said


def test_class_names_of_half_characters_in_a_configuration(lite, refused):
    beside(lite, architecture=f"tf_{MODEL}", label_names=["a", "\ud800", "c", "d", "e"])
    assert "class name 1 is half a character" in refused(lite)


def test_another_programs_header_is_left_alone(tmp_path):
    file = tmp_path / "x.safetensors"
    arrays = {key: np.ascontiguousarray(a) for key, a in samples.tensors().items()}
    save_file(arrays, file, {"architecture": "unet", "preprocessing": "{"})
    assert converted(file).model == MODEL


def test_max_pooling_does_not_come_back_as_averages(tmp_path, refused):
    file = with_header(tmp_path / "x.safetensors", pool="max", architecture=f"tf_{MODEL}")
    message = refused(file)
    assert "the file's header says that the classifier of 'x.safetensors' stands on" in message
    assert "features pooled by max; jtl's averages them" in message
    assert main([str(file), "--out", str(tmp_path / "bare"), "--drop-head"]) == 0
    assert folder.read(tmp_path / "bare").num_classes is None


def test_an_export_of_a_symmetric_lite_stays_one(lite, tmp_path):
    found = converted(lite, architecture=MODEL)
    folder.write(tmp_path / "folder", found)
    target = writer.export(tmp_path / "folder", "timm", tmp_path / "x.safetensors")
    assert target.architecture == MODEL
    assert converted(tmp_path / "x.safetensors").conventions == SYMMETRIC


def test_torchvisions_own_names_are_known():
    found = {name: architectures.find(torchvision_name(name)) for name in models.names()}
    assert {name: each.model for name, each in found.items() if each} == {n: n for n in found}
    assert torchvision_name("vit_base_patch16") == "vit_b_16"
