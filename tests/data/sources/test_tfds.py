"""Data sets prepared by TFDS: from a registered builder to an evaluated run, without TensorFlow."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.data import verification
from jtl.data.sources import tfds as reader
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.sources.registry import SourceOptions, load
from jtl.data.sources.tfds_folder import data_folder
from support import tiny
from support.commands import main, python
from support.paths import SHARED_DATA

CLASSES = ("airplane", "automobile", "bird")
TRAIN, TEST = 20, 6  # of every class
NAME = "few_images"


def images(split: str, count: int) -> Iterator[tuple[str, Image.Image]]:
    """(class, image) of real images where they are, of made ones elsewhere."""
    path = SHARED_DATA / "cifar10.zip"
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            for name in CLASSES:
                for index in range(count):
                    data = archive.read(f"cifar10/{split}/{name}/{index:04}.jpg")
                    yield name, Image.open(io.BytesIO(data)).convert("RGB")
        return
    rng = np.random.default_rng(len(split))
    for label, name in enumerate(CLASSES):
        for _ in range(count):
            pixels = rng.integers(0, 120, (32, 32, 3), np.uint8)
            pixels[..., label] += 120
            yield name, Image.fromarray(pixels)


def register() -> Any:
    """Registers a builder as code of a data set does."""
    import tensorflow_datasets as tfds

    class FewImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                supervised_keys=("image", "label"),
                features=tfds.features.FeaturesDict(
                    {
                        "id": tfds.features.Text(),
                        "image": tfds.features.Image(shape=(32, 32, 3)),
                        # Not in the order of the alphabet, as of many data sets.
                        "label": tfds.features.ClassLabel(names=CLASSES[::-1]),
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            counts = {"train": TRAIN, "test": TEST}
            return {split: self._generate_examples(split, n) for split, n in counts.items()}

        def _generate_examples(self, split, count):
            for index, (name, image) in enumerate(images(split, count)):
                yield index, {"id": f"{split}-{index}", "image": image, "label": name}

    return FewImages


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that TFDS keeps data sets in, with one that is prepared."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    builder = register()(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield folder


def all_pixels(split: Any) -> np.ndarray:
    return split.read(np.arange(len(split)), None)


def test_images_and_labels_are_those_that_were_prepared(prepared: Path):
    data = load(f"tfds:{NAME}")
    assert data.class_names == CLASSES[::-1]
    assert (len(data.train) + len(data.val), data.train.native_size()) == (3 * TRAIN, (32, 32))
    assert data.test is not None
    expected = {p.tobytes(): name for name, p in images("test", TEST)}
    assert len(expected) == 3 * TEST
    found = {
        pixels.tobytes(): data.class_names[label]
        for pixels, label in zip(all_pixels(data.test), data.test.labels, strict=True)
    }
    assert found == expected
    assert "tensorflow" not in sys.modules


def test_sub_splits_partition_train(prepared: Path):
    data = load(f"tfds:{NAME}:train[:80%],train[80%:],test")
    whole = load(f"tfds:{NAME}:train[:50%]+train[50%:]")
    assert (len(data.train), len(data.val)) == (48, 12)
    assert data.test is not None
    assert (len(data.test), data.notes) == (18, ())
    assert {*data.train.names, *data.val.names} == {*whole.train.names, *whole.val.names}
    assert whole.test is None  # What is not named is not used.
    both = {p.tobytes() for split in (data.train, data.val) for p in all_pixels(split)}
    assert both == {p.tobytes() for _, p in images("train", TRAIN)}
    first = load(f"tfds:{NAME}:1.2.0:train[:80%],,test")
    assert len(first.train) + len(first.val) == 48
    assert first.test is not None
    assert set(first.val.names) <= set(data.train.names)


def test_records_read_when_needed_equal_those_in_memory(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = f"tfds:{NAME}:train[7:50],test[3:]"
    held = load(spec)
    monkeypatch.setattr(reader, "HELD_BYTES", 0)
    read = load(spec)
    for one, other in ((held.train, read.train), (held.val, read.val)):
        assert one.names == other.names
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(all_pixels(one), all_pixels(other))


def test_parts_are_checked_each(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verification, "WORTH_SECONDS", 0.0)
    checked = []
    faults = EncodedSplit.faults
    monkeypatch.setattr(
        EncodedSplit, "faults", lambda self, **o: checked.append(self.where) or faults(self, **o)
    )
    check = verification.Verification("error", tmp_path)
    for part in ("train[:10]", "train[10:20]", "train[:10]"):
        load(f"tfds:{NAME}:{part}", verify=check)
    assert checked == [f"tfds:{NAME} (train[:10])", f"tfds:{NAME} (train[10:20])"]


def test_places(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    by_name = load(f"tfds:{NAME}")
    for place in (prepared / NAME / "1.2.0", prepared / NAME):
        assert load(f"tfds:{place}").fingerprint == by_name.fingerprint
    # The newest of several versions, and a configuration.
    other = tmp_path / "other"
    for version in ("1.2.0", "1.10.0"):
        shutil.copytree(prepared / NAME / "1.2.0", other / NAME / "small" / version)
    (other / NAME / "small" / "1.10.0" / "note.txt").write_text("so that they differ")
    monkeypatch.setenv("TFDS_DATA_DIR", str(other))
    newest = load(f"tfds:{NAME}/small")
    assert newest.fingerprint == load(f"tfds:{NAME}").fingerprint
    assert newest.fingerprint == load(f"tfds:{NAME}:1.10.0").fingerprint
    assert newest.fingerprint != load(f"tfds:{NAME}:1.2.0").fingerprint
    shutil.copytree(other / NAME / "small", other / NAME / "large")
    with pytest.raises(UserError, match="several configurations: large, small"):
        load(f"tfds:{NAME}")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert data_folder() == Path.home() / "tensorflow_datasets"


REFUSED = {
    "unknown split": (":trian", r"'trian' is no part.*It has train \(60\), test \(18\)\. Write"),
    "bad slice": (":train[:", r"'train\[:' is no part of this data set \(Error parsing split"),
    "beyond": (":train[:200%]", r"'train\[:200%\]' is no part of this data set"),
    "nothing": (":train[10:5]", r"'train\[10:5\]' selects no examples"),
    "overlap": (":train,train[80%:]", r"'train' and 'train\[80%:\]' share examples"),
    "overlap of test": (":train[:9],test,train[8:9]", "share examples"),
    "too many": (":train,test,test,test", "is not possible. Write the splits as TRAIN"),
    "no train": (":,test", "is not possible. Write the splits as TRAIN"),
    "version": (":9.9.9", "not prepared in version 9.9.9, but in 1.2.0"),
    "name": ("s", f"'{NAME}s' is not prepared in .* Did you mean '{NAME}'"),
    "brackets": ("[x", "cannot be understood"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(prepared: Path, case: str):
    rest, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        load(f"tfds:{NAME}{rest}")


def described(prepared: Path, root: Path, **changes: Any) -> Path:
    """A copy of the prepared data set whose description is another."""
    folder = shutil.copytree(prepared / NAME / "1.2.0", root / NAME / "1.2.0")
    path = folder / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_other_format(prepared: Path, tmp_path: Path):
    folder = described(prepared, tmp_path, fileFormat="tfrecord")
    with pytest.raises(UserError, match=r"prepared as tfrecord .* --file_format=array_record"):
        load(f"tfds:{folder}")


def test_damaged(prepared: Path, tmp_path: Path):
    folder = described(prepared, tmp_path)
    shard = next(folder.glob("*train.array_record*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    with pytest.raises(UserError, match=r"The records of 'train' cannot be read .* Prepare the da"):
        load(f"tfds:{folder}")
    shard.unlink()
    with pytest.raises(UserError, match=r"The records of 'train' cannot be read"):
        load(f"tfds:{folder}")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"The prepared data set in .* cannot be read"):
        load(f"tfds:{folder}")


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "array_record"])
def test_without_the_libraries(missing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing}, which isn.t inst.*pip install 'jtl\[tfds\]'"):
        load("tfds:anything")


@pytest.mark.process
def test_not_prepared_and_offline(elsewhere: Path, tmp_path: Path):
    began = time.monotonic()
    # A name that TFDS knows, and would fetch.
    options = ["--data=tfds:cifar10", "--run-dir=run"]
    done = python("-m", "jtl.train", *options, TFDS_DATA_DIR=str(tmp_path / "none"))
    assert time.monotonic() - began < 15
    assert (done.returncode, done.stdout, list(elsewhere.iterdir())) == (2, "", [])
    assert done.stderr.startswith("error: The data set 'cifar10' is not prepared in ")
    assert "pip install 'jtl[prepare]'\n  tfds build cifar10 --file_format=array" in done.stderr


@pytest.mark.slow
def test_a_run_and_its_evaluation(
    prepared: Path, tiny_model: str, elsewhere: Path, tmp_path: Path, capsys
):
    tiny.write_weights(elsewhere / "weights")
    options = ["--model", tiny_model, "--weights", elsewhere / "weights", "--epochs", 2]
    spec = f"tfds:{NAME}:train[:80%],train[80%:],test"
    assert main("train", "--data", spec, *options, "--run-dir", "run", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["data"], summary["num_train"], summary["num_val"]) == (spec, 48, 12)
    assert summary["class_names"] == list(CLASSES[::-1])
    assert summary["test_accuracy"] is not None
    assert main("evaluate", "run", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["val_accuracy"], scores["val_loss"]) == (
        summary["val_accuracy"],
        summary["val_loss"],
    )
    # The test images in class folders, whose classes stand in another order.
    for split, count in (("train", 1), ("test", TEST)):
        for index, (name, photo) in enumerate(images(split, count)):
            folder = {"train": "train", "test": "val"}[split]
            path = tmp_path / "folders" / folder / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.save(path)
    assert main("evaluate", "run", "--data", f"folder:{tmp_path / 'folders'}", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["count"], scores["val_accuracy"]) == (18, summary["test_accuracy"])
    assert scores["val_classes"] == summary["test_classes"]
    assert scores["val_macro_f1"] == summary["test_macro_f1"]


SETS = [("bird", "airplane"), ("bird",), (), ("automobile",)] * 3


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data sets whose images have several labels: sequences of classes, and vectors of 0 and 1."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("several")
    classes = tfds.features.ClassLabel(names=CLASSES)
    kinds: dict[str, Any] = {
        "sequence": (tfds.features.Sequence(classes), list),
        "vector": (
            tfds.features.Tensor(shape=(3,), dtype=np.uint8),
            lambda names: np.array([name in names for name in CLASSES], np.uint8),
        ),
    }
    prepared = {}
    for kind, (feature, encoded) in kinds.items():

        class Several(tfds.core.GeneratorBasedBuilder):
            name = f"several_{kind}"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self, feature=feature):
                image = tfds.features.Image(shape=(8, 8, 3))
                features = tfds.features.FeaturesDict({"image": image, "labels": feature})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                del dl_manager
                return {"train": self._generate_examples()}

            def _generate_examples(self, encoded=encoded):
                for index, names in enumerate(SETS):
                    image = Image.new("RGB", (8, 8), (index, index, index))
                    yield index, {"image": image, "labels": encoded(names)}

        builder = Several(data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
        prepared[kind] = folder / f"several_{kind}" / "1.0.0"
    return prepared


@pytest.mark.parametrize("kind", ["sequence", "vector"])
def test_several_labels(several: dict[str, Path], kind: str):
    data = load(f"tfds:{several[kind]}", SourceOptions(task="multilabel"))
    assert data.class_names == (CLASSES if kind == "sequence" else ("0", "1", "2"))
    found = {}
    for split in (data.train, data.val):
        for pixels, labels in zip(all_pixels(split), split.labels, strict=True):
            found[int(pixels[0, 0, 0])] = {CLASSES[label] for label in np.flatnonzero(labels)}
    assert found == {index: {*names} for index, names in enumerate(SETS)}
    with pytest.raises(UserError, match=r"If images have several labels: --task multilabel\.$"):
        load(f"tfds:{several[kind]}")


def test_one_label_where_several_are_asked(prepared: Path):
    with pytest.raises(UserError, match=r"one class: leave --task multilabel out\.$"):
        load(f"tfds:{NAME}", SourceOptions(task="multilabel"))
