"""WebDataset's tar files: what is read, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.config.data import with_scheme
from jtl.data.sources.registry import SourceOptions, find
from support.data_files import cut, encode, flat, opened


def png(red: int) -> bytes:
    return encode(flat(colour=(red, 0, 0)), "PNG")


def shard(path: Path, files: Mapping[str, Any]) -> Path:
    """A tar of files in their order; what is no bytes and no text is written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, held in files.items():
            text = held if isinstance(held, (str, bytes)) else json.dumps(held)
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count: int, label: Callable[[int], Any] = lambda n: str(n % 2), ending: str = "cls",
            image: str = "png", start: int = 0) -> dict[str, Any]:  # fmt: skip
    held: dict[str, Any] = {}
    for number in range(start, start + count):
        held[f"{number:04d}.{image}"] = png(number)
        if label(number) is not None:
            held[f"{number:04d}.{ending}"] = label(number)
    return held


def labels(spec: str, **options: Any) -> list[str]:
    found = find(spec, SourceOptions(**options))
    return [found.class_names[label] for label in found.splits["train"].labels]


def test_shards_of_splits(tmp_path: Path):
    for number in range(3):
        shard(tmp_path / f"train-{number:06d}.tar", samples(4, start=4 * number))
    shard(tmp_path / "val-000000.tar", samples(2))
    shard(tmp_path / "test-000000.tar", samples(2, lambda n: "-1"))
    assert with_scheme(str(tmp_path)) == f"wds:{tmp_path}"
    data = opened(str(tmp_path))
    assert data.class_names == ("0", "1")
    assert data.train.labels.tolist() == [0, 1] * 6
    assert data.train.names[5] == "train-000001.tar/0005.png"
    assert data.train.read(np.array([11, 0, 5]), None)[:, 0, 0, 0].tolist() == [11, 0, 5]
    assert (len(data.val), data.test) == (2, None)
    assert data.labels_from == "the .cls files"
    ranged = f"{tmp_path}/train-{{000000..000002}}.tar"
    assert with_scheme(ranged) == f"wds:{ranged}"
    assert labels(ranged) == ["0", "1"] * 6
    assert len(labels(f"wds:{tmp_path}/train-00000[01].tar, {tmp_path}/train-000002.tar")) == 12


def test_names_beside_the_folders_of_splits(tmp_path: Path):
    """As CLIP's benchmark publishes data sets; some of their classes may be missing in train."""
    (tmp_path / "classnames.txt").write_text("owl\nant\nbee\n\n")
    shard(tmp_path / "train" / "0.tar", samples(4, lambda n: str(2 * (n % 2)), image="webp"))
    shard(tmp_path / "test" / "0.tar", samples(2, lambda n: "2\n"))
    found = find(str(tmp_path))
    assert found.class_names == ("owl", "ant", "bee")
    assert found.splits["test"].labels.tolist() == [2, 2]
    assert "classnames.txt" in found.labels_from
    (tmp_path / "classnames.txt").write_text("owl\nant")
    found = find(str(tmp_path))
    assert found.class_names == ("0", "2")
    assert (
        "classnames.txt is not used: its 2 lines do not name the classes 0 to 2" in found.notes[0]
    )


FORMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "words": (samples(4, lambda n: "ab"[n % 2]), ["a", "b"] * 2),
    "json": (
        samples(4, lambda n: {"label": "ab"[n % 2], "width": 6, "id": n}, "json"),
        ["a", "b"] * 2,
    ),
    "json with names and numbers": (
        samples(4, lambda n: {"label": n % 2, "label_name": "ab"[n % 2]}, "json"),
        ["a", "b"] * 2,
    ),
    "a number alone": (samples(4, lambda n: n % 2, "json"), ["0", "1"] * 2),
    "text": (samples(4, lambda n: "ab"[n % 2], "txt"), ["a", "b"] * 2),
    "folders": (
        {f"x/{name}": held for name, held in samples(4, lambda n: "7" if n % 2 else "12").items()},
        ["12", "7"] * 2,
    ),
    "masks": ({**samples(4), **{f"{n:04d}.mask.png": png(0) for n in range(4)}}, ["0", "1"] * 2),
    "upper case": (samples(4, image="PNG", ending="CLS"), ["0", "1"] * 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_labels(tmp_path: Path, form: str):
    files, wanted = FORMS[form]
    path = shard(tmp_path / "x.tar", files)
    assert labels(f"wds:{path}") == wanted
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert labels(f"wds:{packed}") == wanted
    assert len(opened(f"wds:{packed}").train) > 0


def test_what_is_asked_for(tmp_path: Path):
    held = samples(4, lambda n: {"coarse": "xy"[n // 2], "fine": "ab"[n % 2]}, "json")
    held |= {f"{n:04d}.{name}.png": png(100 + n) for n in range(4) for name in ("left", "right")}
    path = shard(tmp_path / "x.tar", {k: v for k, v in held.items() if k[4:] != ".png"})
    with pytest.raises(UserError, match=r"several images, left.png, right.png"):
        find(f"wds:{path}", SourceOptions(label_column="coarse"))
    options = SourceOptions(label_column="coarse", image_column="right.png")
    found = find(f"wds:{path}", options)
    assert [found.class_names[i] for i in found.splits["train"].labels] == ["x", "x", "y", "y"]
    assert {left.what for left in found.left_out} == {"files .left.png"}
    more = {f"{n:04d}.cls": "1" for n in range(4)} | {"0009.txt": "alone"}
    found = find(f"wds:{shard(path, {**held, **more})}", SourceOptions(label_column="fine"))
    assert found.class_names == ("a", "b")
    assert "1 sample of train without an image, for example x.tar/0009.txt" in found.notes[0]


def test_several_labels(tmp_path: Path):
    some = SourceOptions(task="multilabel")
    path = shard(tmp_path / "a.tar", samples(4, lambda n: {"labels": ["ab"[n % 2], "c"]}, "json"))
    assert find(f"wds:{path}", some).splits["train"].labels.tolist() == [[1, 0, 1], [0, 1, 1]] * 2
    path = shard(tmp_path / "b.tar", samples(4, lambda n: "a|c" if n % 2 else None))
    found = find(f"wds:{path}", some)
    assert found.splits["train"].labels.tolist() == [[0, 0], [1, 1]] * 2


def test_groups(tmp_path: Path):
    path = shard(tmp_path / "x.tar", {f"p{n}_{name}": held for n in range(2)
                                      for name, held in samples(4).items()})  # fmt: skip
    found = find(f"wds:{path}", SourceOptions(group_from="regex:(?P<group>p[0-9])_"))
    assert {*found.groups.values()} == {"p0", "p1"}


def test_class_folders_in_a_tar_stay_class_folders(tmp_path: Path):
    held = {f"{name}/{n}.{ending}": png(n) if ending == "png" else {"shapes": []}
            for name in "ab" for n in range(3) for ending in ("png", "json")}  # fmt: skip
    path = shard(tmp_path / "x.tar", held)
    assert with_scheme(str(path)) == f"folder:{path}"
    assert with_scheme(str(shard(path, samples(3)))) == f"wds:{path}"
    assert with_scheme(str(cut(path, 0.01))) == f"folder:{path}"


def test_many_files_are_opened_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jtl.data.sources.webdataset._MOST_OPEN", 1)
    for number in range(2):
        shard(tmp_path / f"{number}.tar", samples(3, start=3 * number))
    data = opened(f"wds:{tmp_path}")
    reds = data.train.read(np.arange(len(data.train)), None)[:, 0, 0, 0].tolist()
    assert [f"{red:04d}" for red in reds] == [name[6:10] for name in data.train.names]


def plain(root: Path, **options: Any) -> Path:
    return shard(root / "x.tar", samples(24, **options))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no files": (lambda root: root, "There are no tar files of WebDataset"),
    "no such range": (
        lambda root: [plain(root), f"{root}/{{0..2}}.tar"][1],
        "3 files of .* missing: .*/0.tar",
    ),
    "a range backwards": (lambda root: f"{root}/{{5..2}}.tar", "The range {5..2} of .* not possib"),
    "no labels": (
        lambda root: plain(root, label=lambda n: None),
        "no labels: no KEY.cls, KEY.json or",
    ),
    "other files": (
        lambda root: plain(root, ending="npy"),
        "Beside the images are only npy. If the images lie",
    ),
    "some without": (
        lambda root: plain(root, label=lambda n: "a" if n > 3 else None),
        "4 images of .* without a label in the .cls files: x.tar/0000.png, x.tar/0001.png,",
    ),
    "an empty label": (lambda root: plain(root, label=lambda n: " "), "24 images .* without a lab"),
    "no images": (
        lambda root: shard(root / "x.tar", {"0.cls": "1", "0.bin": "text"}),
        "train split of .* has no images. WebDataset's tar",
    ),
    "captions": (
        lambda root: plain(root, label=lambda n: f"a photo of {n}", ending="txt"),
        "has 24 different values in 24 rows, as identifiers have",
    ),
    "numbers that are no classes": (
        lambda root: plain(root, label=lambda n: {"label": n + 0.5}, ending="json"),
        "numbers such as 0.5",
    ),
    "broken JSON": (
        lambda root: plain(root, label=lambda n: "{", ending="json"),
        "The .json of x.tar/0000.json is not readable JSON|The .json of x.tar/0000.png",
    ),
    "no known key": (
        lambda root: plain(root, label=lambda n: {"id": n, "file": "x"}, ending="json"),
        "no key that is called like the labels: file, id. Name it",
    ),
    "two keys": (
        lambda root: plain(root, label=lambda n: {"label": n % 2, "class": n % 3}, ending="json"),
        "several keys that could be the labels: label, class",
    ),
    "lists": (
        lambda root: plain(root, label=lambda n: {"label": [n]}, ending="json"),
        r"lists or objects such as \[0\]. If images have several labels: --task multilabel",
    ),
    "kinds": (
        lambda root: plain(root, label=lambda n: {"label": n if n % 2 else "x"}, ending="json"),
        "are of different kinds: int, str",
    ),
    "cut off": (lambda root: cut(plain(root), 0.5), "not a readable tar archive"),
    "no tar": (
        lambda root: [(root / "x.tar").write_bytes(b"text" * 500), root][1],
        "not a readable",
    ),
    "one class": (lambda root: plain(root, label=lambda n: "a"), "only 1 class, 'a'"),
    "half named": (
        lambda root: [plain(root), shard(root / "val.tar", samples(2)), root][2],
        "Some tar files of WebDataset name a split and others do not: x.tar",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str):
    make, message = BAD[case]
    spec = f"wds:{make(tmp_path)}"
    with pytest.raises(UserError, match=message):
        opened(spec)


def test_columns_that_are_not_there(tmp_path: Path):
    path = plain(tmp_path, label=lambda n: {"label": n % 2}, ending="json")
    for options, message in (
        ({"label_column": "my_label"}, "--label-column my_label: no .json .* Did you mean 'label'"),
        ({"image_column": "jpg"}, "--image-column jpg: x.tar/0000.* has no such image, but png"),
    ):
        with pytest.raises(UserError, match=message):
            find(f"wds:{path}", SourceOptions(**options))
    with pytest.raises(UserError, match=r"--label-column fine: no file .* has this ending"):
        find(f"wds:{plain(tmp_path)}", SourceOptions(label_column="fine"))


def test_real_images(tmp_path: Path, shared_data: Callable[[str], Path]):
    with zipfile.ZipFile(shared_data("ants-bees.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for split, marker in (("train", "/train/"), ("val", "/val/")):
            held: dict[str, Any] = {}
            for number, name in enumerate([name for name in names if marker in name][::30]):
                held[f"{number}.jpg"] = archive.read(name)
                held[f"{number}.json"] = {"label": name.split("/")[2], "source": name}
            shard(tmp_path / f"{split}-0.tar", held)
    data = opened(str(tmp_path))
    assert data.class_names == ("ants", "bees")
    assert (len(data.train), len(data.val)) == (9, 6)
