"""Real images in every form that people have them in: each is read, as what it shows."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, features

from jtl.data.decoding import HostTransform
from jtl.data.multilabel import class_text, classes_of
from jtl.data.sources.registry import SourceOptions, load
from support.commands import main

SMALL = HostTransform(24, 0.875, "bilinear")
INSECTS = ("ants", "bees")


class Photo(NamedTuple):
    """A JPEG file, and where the data set's makers have put it."""

    split: str
    label: str
    data: bytes


class Form(NamedTuple):
    """What is read, how, and what it should be.

    Attributes:
        spec: The source.
        options: Of `SourceOptions`.
        counts: How many images of each class train and val should have.
        ants: What the class of ants, or an image's classes, should be called.
        bees: And of bees.
        exact: Whether pixels are those of the photographs.
    """

    spec: str
    options: Mapping[str, Any] = {}
    counts: tuple[int, int] = (8, 2)
    ants: str = "ants"
    bees: str = "bees"
    exact: bool = True


@pytest.fixture(scope="module")
def photos(shared_data: Callable[[str], Path]) -> list[Photo]:
    """8 ants and 8 bees of train, 2 and 2 of val."""
    found = []
    with zipfile.ZipFile(shared_data("ants-bees.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for split, count in (("train", 8), ("val", 2)):
            for label in INSECTS:
                same = [name for name in names if f"/{split}/{label}/" in name]
                found += [Photo(split, label, archive.read(name)) for name in same[:count]]
    return found


def put(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.name


def flat_files(root: Path, photos: Sequence[Photo], form: str = "{n:04d}.jpg") -> list[str]:
    """All photographs in one folder; their names."""
    return [
        put(root / form.format(n=n, label=p.label, split=p.split), p.data)
        for n, p in enumerate(photos)
    ]


def table(path: Path, rows: Sequence[Sequence[object]], between: str = ",") -> str:
    path.write_text("".join(between.join(map(str, row)) + "\n" for row in rows))
    return str(path)


def parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    pq.write_table(pa.table(columns), path)


def kaggle(root: Path, photos: list[Photo]) -> Form:
    names = flat_files(root / "train", photos)
    rows = [("id", "breed"), *((n[:-4], p.label) for n, p in zip(names, photos, strict=True))]
    return Form(table(root / "labels.csv", rows))


def tabs_with_splits(root: Path, photos: list[Photo]) -> Form:
    names = flat_files(root / "pics", photos)
    rows = [(f"pics\\{n}", p.label, p.split) for n, p in zip(names, photos, strict=True)]
    return Form(table(root / "t.tsv", [("path", "class", "fold set"), *rows], "\t"),
                {"split_column": "fold set"})  # fmt: skip


def lines_of_json(root: Path, photos: list[Photo]) -> Form:
    names = flat_files(root, photos)
    rows = [
        json.dumps({"file_name": n, "label": p.label, "split": p.split})
        for n, p in zip(names, photos, strict=True)
    ]
    return Form(table(root / "t.jsonl", [[row] for row in rows]))


def parquet_of_paths(root: Path, photos: list[Photo]) -> Form:
    names = flat_files(root / "images", photos)
    columns = {"image": names, "label": [p.label for p in photos]}
    parquet(root / "t.parquet", columns)
    return Form(f"csv:{root / 't.parquet'}", {"image_root": str(root / "images")})


def metadata(root: Path, photos: list[Photo]) -> Form:
    for split in ("train", "val"):
        own = [p for p in photos if p.split == split]
        names = flat_files(root / split, own)
        rows = [(n, p.label) for n, p in zip(names, own, strict=True)]
        table(root / split / "metadata.csv", [("file_name", "label"), *rows])
    return Form(str(root))


def tables_of_splits(root: Path, photos: list[Photo]) -> Form:
    names = flat_files(root / "images", photos)
    for split in ("train", "val"):
        rows = [(f"images/{n}", p.label) for n, p in zip(names, photos, strict=True)
                if p.split == split]  # fmt: skip
        table(root / f"{split}.csv", [("image", "label"), *rows])
    return Form(f"csv:{root}")


def a_zip_of_images(root: Path, photos: list[Photo]) -> Form:
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for n, photo in enumerate(photos):
            archive.writestr(f"photos/{n}.jpg", photo.data)
    rows = [("image", "label"), *((f"{n}.jpg", p.label) for n, p in enumerate(photos))]
    path = table(root / "t.csv", rows, ";")
    return Form(path, {"image_root": str(root / "photos.zip")})


def dots_in_names(root: Path, photos: list[Photo]) -> Form:
    flat_files(root, photos, "{label}.{n}.jpg")
    return Form(str(root), {"label_from": "name"})


def breeds_in_names(root: Path, photos: list[Photo]) -> Form:
    flat_files(root, photos, "{label}_of_europe_{n}.jpg")
    return Form(str(root), {"label_from": "name"}, ants="ants_of_europe", bees="bees_of_europe")


def an_expression(root: Path, photos: list[Photo]) -> Form:
    flat_files(root, photos, "{label}-{n}-x.jpg")
    return Form(str(root), {"label_from": r"regex:^(?P<label>[a-z]+)[._-]\d+"})


def groceries(root: Path, photos: list[Photo]) -> Form:
    """Classes two folders deep, of which two have one name."""
    places = {"ants": "wood/other", "bees": "garden/other"}
    for n, photo in enumerate(photos):
        put(root / photo.split / places[photo.label] / f"{n}.jpg", photo.data)
    return Form(str(root), {"classes": "leaf"}, **places)


def top_folders(root: Path, photos: list[Photo]) -> Form:
    for n, photo in enumerate(photos):
        put(root / photo.label / f"day{n % 3}" / f"{n}.jpg", photo.data)
    return Form(str(root), {"classes": "top"})


def a_test_without_classes(root: Path, photos: list[Photo]) -> Form:
    for n, photo in enumerate(photos):
        folder = f"train/{photo.label}" if photo.split == "train" else "test"
        put(root / folder / f"{n}.jpg", photo.data)
    return Form(str(root), counts=(6, 2))


TAGS = {"ants": "ants|insect", "bees": "bees|insect"}


def labels_in_a_cell(root: Path, photos: list[Photo]) -> Form:
    names = flat_files(root, photos)
    rows = [(n, f"insect|{p.label}", p.split) for n, p in zip(names, photos, strict=True)]
    path = table(root / "t.csv", [("image", "tags", "split"), *rows])
    return Form(path, {"task": "multilabel"}, **TAGS)


def labels_in_columns(root: Path, photos: list[Photo]) -> Form:
    names = flat_files(root, photos)
    rows = [
        (n, int(p.label == "ants"), int(p.label == "bees"), 1, p.split)
        for n, p in zip(names, photos, strict=True)
    ]
    path = table(root / "t.csv", [("image", *INSECTS, "insect", "split"), *rows])
    return Form(path, {"task": "multilabel"}, **TAGS)


def labels_in_arrays(root: Path, photos: list[Photo]) -> Form:
    held = {}
    for split in ("train", "val"):
        own = [p for p in photos if p.split == split]
        images = [Image.open(io.BytesIO(p.data)).convert("RGB").resize((32, 32)) for p in own]
        held[f"x_{split}"] = np.stack([np.asarray(image) for image in images])
        labels = [[p.label == "ants", p.label == "bees", True] for p in own]
        held[f"y_{split}"] = np.array(labels, np.uint8)
    np.savez(root / "x.npz", class_names=np.array([*INSECTS, "insect"]), **held)
    return Form(str(root / "x.npz"), {"task": "multilabel"}, exact=False, **TAGS)


def labels_in_lists(root: Path, photos: list[Photo]) -> Form:
    for split in ("train", "val"):
        own = [p for p in photos if p.split == split]
        columns = {
            "image": [{"bytes": p.data, "path": None} for p in own],
            "labels": [["insect", p.label] for p in own],
        }
        parquet(root / f"{split}-0.parquet", columns)
    return Form(f"parquet:{root}", {"task": "multilabel"}, **TAGS)


def synsets(root: Path, photos: list[Photo]) -> Form:
    numbers = {"ants": "n02219486", "bees": "n02206856"}
    for n, photo in enumerate(photos):
        put(root / photo.split / numbers[photo.label] / f"{n}.jpg", photo.data)
    (root / "LOC_synset_mapping.txt").write_text("n02219486 ant, emmet\nn02206856 bee\n")
    return Form(str(root), **numbers)


def of_phones(kind: str) -> Callable[[Path, list[Photo]], Form]:
    def written(root: Path, photos: list[Photo]) -> Form:
        if kind == "HEIF":
            pytest.importorskip("pillow_heif").register_heif_opener()
        elif not ("avif" in features.modules and features.check("avif")):
            pytest.skip("this Pillow does not read AVIF")
        for n, photo in enumerate(photos):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(photo.data)).convert("RGB").resize((64, 48)).save(buffer, kind)
            put(root / photo.split / photo.label / f"{n}.{kind.lower()}", buffer.getvalue())
        return Form(str(root), exact=False)

    return written


def at_an_address(root: Path, photos: list[Photo]) -> Form:
    fsspec = pytest.importorskip("fsspec")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for n, photo in enumerate(photos):
            archive.writestr(f"{photo.split}/{photo.label}/{n}.jpg", photo.data)
    fsspec.filesystem("memory").pipe("/layouts/insects.zip", buffer.getvalue())
    return Form("memory://layouts/insects.zip")


FORMS: dict[str, Callable[[Path, list[Photo]], Form]] = {
    "a table of Kaggle": kaggle,
    "tabs, splits and Windows paths": tabs_with_splits,
    "lines of JSON": lines_of_json,
    "a Parquet table of paths": parquet_of_paths,
    "metadata.csv of Hugging Face": metadata,
    "a table for each split": tables_of_splits,
    "images in a zip": a_zip_of_images,
    "cat.0.jpg": dots_in_names,
    "yorkshire_terrier_101.jpg": breeds_in_names,
    "a regular expression": an_expression,
    "leaves of one name": groceries,
    "folders of days in classes": top_folders,
    "a test folder without classes": a_test_without_classes,
    "several labels in a cell": labels_in_a_cell,
    "several labels in columns": labels_in_columns,
    "several labels in arrays": labels_in_arrays,
    "several labels in lists": labels_in_lists,
    "synsets": synsets,
    "HEIC": of_phones("HEIF"),
    "AVIF": of_phones("AVIF"),
    "an address": at_an_address,
}


def shown(root: Path, photos: list[Photo]) -> list[tuple[bytes, int]]:
    """The pixels of every photograph, and 0 for ants or 1 for bees."""
    for n, photo in enumerate(photos):
        put(root / photo.label / f"{n}.jpg", photo.data)
    plain = load(str(root), whole=True).train
    pixels = plain.read(np.arange(len(plain)), SMALL)
    return [
        (image.tobytes(), int(label)) for image, label in zip(pixels, plain.labels, strict=True)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_each_is_read_as_what_it_shows(
    form: str, tmp_path: Path, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    (root := tmp_path / "data").mkdir()
    made = FORMS[form](root, photos)
    data = load(made.spec, SourceOptions(**made.options))
    if form == "a table of Kaggle":
        assert "Images are found by their names alone" in data.notes[0]
    if form == "cat.0.jpg":
        assert (
            "from the names of the files, such as ants.0.jpg = ants" in data.describe().lines()[1]
        )
    named = (made.ants, made.bees)
    for split, count in zip((data.train, data.val), made.counts, strict=True):
        called = [class_text(classes_of(split.labels, n), data.class_names)
                  for n in range(len(split))]  # fmt: skip
        assert Counter(called) == dict.fromkeys(named, count)
        if made.exact:
            by_pixels = {pixels: named[label] for pixels, label in shown(tmp_path / "p", photos)}
            read = split.read(np.arange(len(split)), SMALL)
            assert [by_pixels[image.tobytes()] for image in read] == called


@pytest.mark.parametrize("how", ["group_column", "group_from"])
def test_groups_of_real_images_are_undivided(how: str, tmp_path: Path, photos: list[Photo]):
    """Two views of each photograph, as of one patient."""
    rows: list[tuple[object, ...]] = [("image", "label", "patient")]
    for n, photo in enumerate(photos):
        for view in "ab":
            put(tmp_path / f"p{n}_{view}.jpg", photo.data)
            rows.append((f"p{n}_{view}.jpg", photo.label, f"patient {n}"))
    option = {"group_column": "patient", "group_from": r"regex:^(?P<group>p\d+)_"}[how]
    data = load(table(tmp_path / "t.csv", rows), SourceOptions(**{how: option}), test_fraction=0.2)
    assert data.test is not None
    parts = [{name.split("_")[0] for name in split.names} for split in (
        data.train, data.val, data.test
    )]  # fmt: skip
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    assert all(len(np.unique(s.labels)) == 2 for s in (data.train, data.val, data.test))


def test_wide_images_are_told_with_their_share(tmp_path: Path, photos: list[Photo], capsys):
    """Panoramas of three photographs each, beside single ones."""
    for n, photo in enumerate(photos):
        image = Image.open(io.BytesIO(photo.data)).convert("RGB").resize((96, 96))
        if n % 2:
            wide = Image.new("RGB", (288, 96))
            for place in range(3):
                wide.paste(image, (96 * place, 0))
            image = wide
        (tmp_path / photo.label).mkdir(exist_ok=True)
        image.save(tmp_path / photo.label / f"{n}.png")
    assert main("data", "check", tmp_path) == 0
    assert "The centre crop loses 40 % or more of 10 of 20 images" in capsys.readouterr().out
