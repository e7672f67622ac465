"""`jtl embed`: features with names and labels, similar images, and what the features are worth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.embed import probes
from jtl.embed.embeddings import Embeddings
from jtl.runs.run import Run
from support import tiny
from support.commands import main

pytestmark = pytest.mark.usefixtures("elsewhere")


def embedded(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    assert main("embed", *args, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_features_of_a_run_with_names_and_labels(tiny_run: Run, tiny_data: Path, capsys):
    told = embedded(capsys, tiny_run.folder, tiny_data, "--out", "features.npz")
    assert (told["images"], told["features"]) == (27, 16)
    with np.load("features.npz") as found:
        file = dict(found)
    assert file["features"].dtype == np.float32
    assert file["splits"].tolist() == ["train"] * 18 + ["val"] * 9
    assert file["class_names"].tolist() == list(tiny.CLASSES)
    parts = [name.split("/") for name in file["names"]]
    assert [part[0] for part in parts] == file["splits"].tolist()
    assert [part[1] for part in parts] == [tiny.CLASSES[label] for label in file["labels"]]
    # The head on them gives what the run predicts.
    classifier = jtl.load(tiny_run.folder)
    head = classifier.variables["params"]["head"]["logits"]
    logits = file["features"] @ np.asarray(head["kernel"]) + np.asarray(head["bias"])[None]
    own = classifier.predict([tiny_data / name for name in file["names"]]).logits
    np.testing.assert_allclose(logits, own, rtol=1e-4, atol=1e-4)
    scores = told["probes"]
    assert scores["knn"].keys() == scores["linear"].keys() == {"val"}
    assert min(scores["knn"]["val"], scores["linear"]["val"]) > 0.8


def test_a_linear_probe_is_that_of_training(tiny_data: Path, tiny_run: Run, capsys):
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--solver", "lbfgs"]
    assert main("train", "--data", tiny_data, *options, "--run-dir", "probe", "--json") == 0
    trained = json.loads(capsys.readouterr().out)
    weights = ["--weights", tiny_data.parent / "weights"]
    told = embedded(capsys, "tiny", tiny_data, *weights)
    assert told["probes"]["linear"]["val"] == trained["val_accuracy"]
    assert told["probes"]["l2"] == json.loads(Path("probe/metrics.jsonl").read_text())["l2"]


def test_the_most_similar_training_image_is_itself(tiny_run: Run, tiny_data: Path, capsys):
    image = tiny_data / "train" / "birch" / "2.png"
    other = tiny_data / "val" / "ash" / "1.png"
    asked = ["--nearest", f"{image},{other}", "--neighbours", "3", "--no-probes"]
    told = embedded(capsys, tiny_run.folder, tiny_data, *asked)
    assert told["probes"] is None
    first, second = (row["neighbours"] for row in told["nearest"])
    assert (first[0]["name"], first[0]["label"]) == ("train/birch/2.png", "birch")
    assert first[0]["similarity"] == pytest.approx(1.0, abs=1e-5)
    assert len(first) == len(second) == 3
    # Of the training images alone, although the image itself is among those of validation.
    assert {row["split"] for row in second} == {"train"}
    assert second[0]["similarity"] < 0.9999
    assert main("embed", tiny_run.folder, tiny_data, *asked) == 0
    printed = capsys.readouterr().out
    assert "   1.000  birch  train/birch/2.png\n" in printed


def test_parquet_holds_the_same(tiny_run: Run, tiny_data: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = jtl.embed(tiny_run, tiny_data, out="features.parquet", display=tiny.quiet())
    table = parquet.read_table("features.parquet")
    assert table.column_names == ["name", "split", "label", "features"]
    assert table["name"].to_pylist() == list(found.names)
    assert table["label"].to_pylist() == [found.label(row) for row in range(len(found))]
    np.testing.assert_array_equal(np.stack(table["features"].to_numpy()), found.features)
    about = json.loads(table.schema.metadata[b"jtl"])
    assert about["class_names"] == list(tiny.CLASSES)


def test_images_without_labels(tiny_run: Run, tiny_data: Path, tmp_path: Path, capsys):
    folder = tmp_path / "loose"
    folder.mkdir()
    for index, name in enumerate(("ash", "cedar")):
        shutil.copy(tiny_data / "val" / name / "0.png", folder / f"{index}.png")
    (folder / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    labelled = jtl.embed(tiny_run, tiny_data, display=tiny.quiet())
    found = jtl.embed(tiny_run, folder, unlabelled=True, display=tiny.quiet())
    assert (len(found), found.labels, found.probes) == (2, None, None)
    assert [one.name for one in found.unreadable] == [str(folder / "2.png")]
    for index, name in enumerate(("ash", "cedar")):
        row = labelled.names.index(f"val/{name}/0.png")
        # Batches of another size round differently.
        np.testing.assert_allclose(found.features[index], labelled.features[row], rtol=1e-4)
    assert main("embed", tiny_run.folder, folder, "--unlabelled", "--out", "f.npz") == 0
    assert "1 image could not be read, and left out:" in capsys.readouterr().err
    with np.load("f.npz") as file:
        assert "labels" not in file.files
    pixels = np.asarray(Image.open(folder / "0.png"))
    (near,) = found.nearest(pixels, 1)
    assert near[0].name == str(folder / "0.png")


BAD = {
    "neither a run nor a model": (["resent50", "digits"], "Did you mean 'resnet50'?"),
    "another format": (["resnet50", "digits", "--out", "f.csv"], "must end in .npz or .parquet"),
    "what a run has": (["RUN", "DATA", "--image-size", "64"], "--image-size: no effect with a run"),
    "no labels to read": (
        ["RUN", "DATA", "--unlabelled", "--label-column", "x"],
        "--label-column: no effect with --unlabelled",
    ),
    "no image": (["RUN", "DATA", "--nearest", "nowhere.jpg"], "nowhere.jpg: No such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case: str, tiny_run: Run, tiny_data: Path, capsys):
    args, message = BAD[case]
    known = {"RUN": tiny_run.folder, "DATA": tiny_data}
    assert main("embed", *[known.get(word, word) for word in args]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path.cwd().iterdir())


# The probes by themselves.


def directions(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_neighbours_vote_as_in_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 120)
    units = directions(random.normal(0, 1, (120, 5)) + 0.7 * np.eye(5)[labels])
    known, asked = units[:90], units[90:]
    found = probes.nearest_labels(asked, known, labels[:90], 4)
    assert set(found) == set(probes.NEIGHBOURS)
    for k, classes in found.items():
        weigh = {"metric": "cosine", "weights": lambda distances: 2 - distances}
        peer = neighbors.KNeighborsClassifier(k, **weigh).fit(known, labels[:90])
        np.testing.assert_array_equal(classes, peer.predict(asked))
    assert (found[1] != found[20]).any()


def test_an_image_is_not_its_own_neighbour():
    units = directions(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]))
    labels = np.array([0, 1, 2, 3])
    found = probes.nearest_labels(units, units, labels, 4, itself=True)
    assert found[1].tolist() == [1, 0, 3, 2]
    assert set(found) == {1, 3}


def test_several_classes_have_no_probe():
    labels = np.ones((4, 2), np.uint8)
    features = np.eye(4, dtype=np.float32)
    assert (
        probes.accuracies(features, features, labels, ["train", "train", "val", "val"], 2) is None
    )
    names = ("train/a", "train/b", "val/a", "val/b")
    splits = tuple(name.split("/")[0] for name in names)
    backbone = None  # None is asked.
    found = Embeddings("m", "s", names, splits, labels, ("x", "y"), features, backbone)  # pyright: ignore
    assert (found.probes, found.label(0)) == (None, "x|y")
