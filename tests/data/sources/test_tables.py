"""Tables of image files and labels: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jtl.data.command as check_command
from jtl.common.errors import UserError
from jtl.config.data import DataConfig, with_scheme
from jtl.config.options import Config
from jtl.data.sources.registry import SourceOptions, find, load
from jtl.data.splits import OpenedSource
from support.data_files import encode, flat

HEAD = "image,label\n"
FOUR = "im/a.png,ant\nim/b.png,bee\nim/c.png,ant\nim/d.png,bee\n"
READ = {"train": {"a": "ant", "b": "bee", "c": "ant", "d": "bee"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder `im` with six images."""
    (tmp_path / "im").mkdir()
    for value, name in enumerate("abcdef"):
        (tmp_path / "im" / f"{name}.png").write_bytes(encode(flat(colour=(value, 0, 0)), "PNG"))
    return tmp_path


def written(root: Path, text: str | bytes, name: str = "labels.csv") -> str:
    data = text.encode() if isinstance(text, str) else text
    (root / name).write_bytes(data)
    return f"csv:{root / name}"


def pairs(found: OpenedSource) -> dict[str, dict[str, str]]:
    """{split: {stem of an image: its class}}."""
    return {
        split: {
            Path(name).stem: found.class_names[label]
            for name, label in zip(images.names, images.labels.tolist(), strict=True)
        }
        for split, images in found.splits.items()
    }


FORMS: dict[str, str | bytes] = {
    "commas": HEAD + FOUR,
    "BOM": b"\xef\xbb\xbf" + (HEAD + FOUR).encode(),
    "semicolons": (HEAD + FOUR).replace(",", ";"),
    "tabs": (HEAD + FOUR).replace(",", "\t"),
    "spaces": FOUR.replace(",", " "),
    "UTF-16": (HEAD + FOUR).encode("utf-16"),
    "Windows line ends": (HEAD + FOUR).replace("\n", "\r\n"),
    "quotes": '"image","label"\n' + re.sub(r"im/(\w)\.png,(\w+)", r'"im/\1.png","\2"', FOUR),
    "no head": FOUR,
    "blank lines": "\n" + (HEAD + FOUR).replace("\n", "\n\n"),
    "trailing commas": (HEAD + FOUR).replace("\n", ",,\n"),
    "short rows": "image,label,comment\n" + FOUR,
    "spaces around": (HEAD + FOUR).replace(",", " , "),
    "Excel's first line": "sep=;\n" + (HEAD + FOUR).replace(",", ";"),
    "an index, as pandas writes it": ",image,label\n"
    + "".join(f"{row},{line}\n" for row, line in enumerate(FOUR.split())),
    "Windows paths": HEAD + FOUR.replace("im/", ".\\im\\"),
    "without extension": "id,breed\n" + FOUR.replace(".png", ""),
    "of another computer": HEAD + FOUR.replace("im/", "C:\\Users\\me\\data\\im\\"),
    "names alone": "image_id,dx\n" + FOUR.replace("im/", "").replace(".png", ""),
    "a column of numbers that says the same": "image,label,class_name\n"
    + FOUR.replace("ant", "0,ant").replace("bee", "1,bee"),
    "only one column is left": "photo,insect\n" + FOUR,
    "a caption": "file_name,text,label\n"
    + "".join(line.replace(",", ',"It is, I think, one",') + "\n" for line in FOUR.split()),
    "JSON": "".join(
        json.dumps({"file_name": line.split(",")[0], "label": line.split(",")[1]}) + "\n"
        for line in FOUR.split()
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_tables(root: Path, form: str):
    found = find(written(root, FORMS[form], "l.txt" if form == "spaces" else "labels.csv"))
    assert pairs(found) == READ
    assert found.problems == ()


def test_paths_start_at_the_table_or_at_the_root_or_are_absolute(root: Path):
    (root / "tables").mkdir()
    for text in (HEAD + FOUR.replace("im/", "../im/"), HEAD + FOUR.replace("im", f"{root}/im")):
        assert pairs(find(written(root / "tables", text))) == READ
    plain = written(root / "tables", HEAD + FOUR.replace("im/", ""))
    assert pairs(find(plain, SourceOptions(image_root=str(root / "im")))) == READ


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_images_in_an_archive(root: Path, kind: str):
    shutil.make_archive(str(root / "x"), kind, root, "im")
    shutil.rmtree(root / "im")
    for text in (HEAD + FOUR, "id,label\n" + FOUR.replace("im/", "").replace(".png", "")):
        data = load(written(root, text), SourceOptions(image_root=str(root / f"x.{kind}")))
        assert data.train.read(np.array([0]), None).shape == (1, 4, 6, 3)


def test_labels_keep_their_zeros_and_lose_what_pandas_adds(root: Path):
    text = HEAD + FOUR.replace("ant", "001").replace("bee", "010")
    assert find(written(root, text)).class_names == ("001", "010")
    text = HEAD + FOUR.replace("ant", "3.0").replace("bee", "7.0")
    assert find(written(root, text)).class_names == ("3", "7")


def test_parquet_with_paths_needs_no_prefix(root: Path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [line.split(",") for line in FOUR.split()]
    table = pa.table({"path": [row[0] for row in rows], "label": [row[1] for row in rows]})
    parquet.write_table(table, root / "x.parquet")
    assert pairs(find(str(root / "x.parquet"))) == READ
    with pytest.raises(UserError, match=r"--label-column labl.*Did you mean 'label'"):
        find(f"csv:{root / 'x.parquet'}", SourceOptions(label_column="labl"))


def test_a_plain_path_is_a_table(root: Path):
    spec = written(root, HEAD + FOUR)
    assert with_scheme(spec.removeprefix("csv:")) == spec
    assert with_scheme("x/metadata.JSONL") == "csv:x/metadata.JSONL"


SPLITS = {
    "a column": ("image,label,split\n", ["train", "train", "dev", "dev", "test"]),
    "called otherwise": ("image,label,Usage\n", ["Training"] * 2 + ["val"] * 2 + ["PublicTest"]),
    "of yes and no": ("image,label,is_test\n", ["0", "0", "0", "0", "1"]),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits(root: Path, case: str):
    head, cells = SPLITS[case]
    lines = (FOUR + "im/e.png,ant\n").split()
    text = head + "".join(f"{line},{cell}\n" for line, cell in zip(lines, cells, strict=True))
    found = find(written(root, text))
    sizes = {split: len(images) for split, images in found.splits.items()}
    assert sizes == ({"train": 2, "val": 2, "test": 1} if "yes" not in case
                     else {"train": 4, "test": 1})  # fmt: skip
    assert found.splits_from == f"the column '{head.split(',')[2].strip()}' of labels.csv"
    ignored = find(written(root, text), SourceOptions(split_column="none"))
    assert {split: len(images) for split, images in ignored.splits.items()} == {"train": 5}


UNUSED = {
    "numbers": ("set", "12121"),
    "in German": ("Menge", ["Training", "Probe"] * 2 + ["Training"]),
    "in Spanish": ("conjunto", ["ejercicio", "examen"] * 2 + ["ejercicio"]),
    "by its words": ("x", ["train", "other"] * 2 + ["train"]),
}


@pytest.mark.parametrize("case", UNUSED)
def test_a_column_that_may_say_splits_is_named_where_it_is_not_used(root: Path, case: str):
    name, cells = UNUSED[case]
    lines = (FOUR + "im/e.png,ant\n").split()
    rows = "".join(f"{line},{cell}\n" for line, cell in zip(lines, cells, strict=True))
    spec = written(root, f"image,label,{name}\n{rows}")
    for options in (SourceOptions(), SourceOptions(image_column="image", label_column="label")):
        (note,) = find(spec, options).notes
        assert note.startswith(f"The column '{name}' ({', '.join(sorted({*cells}))}) is not used.")
        assert note.endswith(f"--split-column {name}; if not, add --split-column none.")
    assert not find(spec, SourceOptions(split_column="none")).notes


def test_lists_of_splits_beside_a_table_are_named(root: Path):
    for name in ("train_list.txt", "Test.txt", "list_eval_partition.csv"):
        (root / name).write_text("im/a.png 0\n")
    for name in ("trains.txt", "train_log.txt", "testimony.txt", "readme.txt"):
        (root / name).write_text("x")
    spec = written(root, HEAD + FOUR)
    (note,) = find(spec).notes
    assert note.startswith(
        "Test.txt, list_eval_partition.csv, train_list.txt next to labels.csv: not read."
    )
    assert not find(spec, SourceOptions(split_column="none")).notes
    lines = zip(FOUR.split(), ["train", "train", "train", "test"], strict=True)
    table = "image,label,split\n" + "".join(f"{line},{split}\n" for line, split in lines)
    assert not any("beside" in note for note in find(written(root, table)).notes)


def test_labels_that_are_sets_of_words(root: Path):
    rows = ["clear haze", "haze clear", "cloudy", "clear haze"]
    lines = [f"im/{name}.png,{label}\n" for name, label in zip("abcd", rows, strict=True)]
    spec = written(root, "image_name,tags\n" + "".join(lines))
    with pytest.raises(UserError, match=r"several labels for an image: 3 of 4 rows.*'clear haze'"):
        find(spec, SourceOptions(label_column="tags"))
    other = written(root, "image_name,label\n" + "".join(lines))
    assert len(find(other).class_names) == 3


def test_test_rows_without_labels_are_left_alone(root: Path):
    text = "image,label,split\n" + "".join(f"{line},train\n" for line in FOUR.split())
    found = find(written(root, text + "im/e.png,,test\nim/f.png,NaN,test\n"))
    assert pairs(found) == READ
    assert "The test rows of the table have no labels: they are not used" in found.notes[0]


def test_files_of_each_split_side_by_side(root: Path):
    written(root, HEAD + FOUR, "train.csv")
    written(root, HEAD + "im/e.png,ant\n", "valid.csv")
    written(root, "image\nim/f.png\n", "test.csv")
    written(root, HEAD + "im/f.png,0\n", "sample_submission.csv")
    found = find(f"csv:{root}")
    assert pairs(found) == READ | {"val": {"e": "ant"}}
    assert found.splits_from == "train.csv and valid.csv"
    assert "test.csv has only one column ('image')" in found.notes[0]
    alone = find(f"csv:{root}/train.csv")
    assert pairs(alone) == READ
    assert (
        f"test.csv, valid.csv next to train.csv: not read. To use them: csv:{root}" in alone.notes
    )


def test_an_image_named_twice_counts_once(root: Path):
    found = find(written(root, HEAD + FOUR + "im/../im/a.png,ant\n"))
    assert pairs(found) == READ
    assert "1 row that name an image a second time" in found.notes[0]


def test_one_hot_columns_are_classes(root: Path):
    rows = {"a": "1.0,0.0,0.0", "b": "0.0,1.0,0.0", "c": "1,0,0", "d": "0,1,0"}
    text = "image,MEL,NV,UNK\n" + "".join(f"im/{name},{cells}\n" for name, cells in rows.items())
    found = find(written(root, text))
    assert pairs(found) == {"train": {"a": "MEL", "b": "NV", "c": "MEL", "d": "NV"}}
    assert found.labels_from.startswith("the columns MEL, NV, UNK of labels.csv")
    assert "The columns 'UNK' of labels.csv are 1 in no row: they are no classes here." in (
        found.notes
    )


def test_another_table_that_says_groups_of_the_images(root: Path):
    """As ISIC 2019's metadata, with the lesion of each image."""
    place = written(root, HEAD + FOUR).removeprefix("csv:")
    (root / "meta.csv").write_text("image,age,lesion_id\na,5,1\nb,6,1\nc,5,2\nd,7,2\n")
    told = [note for note in find(f"csv:{place}").notes if "meta.csv" in note]
    assert len(told) == 1
    assert told[0].startswith("meta.csv next to labels.csv says the lesion_id of images, which")
    (root / "meta.csv").write_text("image,age,size\na,5,1\nb,6,1\nc,5,2\nd,7,2\n")
    assert not [note for note in find(f"csv:{place}").notes if "meta.csv" in note]


def test_lists_of_the_other_splits_beside_one(root: Path):
    """As those of TrashNet, `one-indexed-files-notrash_train.txt`."""
    for split, names in {"train": "ab", "val": "c", "test": "d"}.items():
        lines = [f"im/{name}.png {number % 2 + 1}" for number, name in enumerate(names)]
        (root / f"files_{split}.txt").write_text("\n".join(lines) + "\n")
    notes = find(f"csv:{root}/files_train.txt").notes
    told = [note for note in notes if note.startswith("files_test.txt, files_val.txt next to")]
    assert len(told) == 1
    assert told[0].endswith(f"and give that: csv:FOLDER --image-root {root}")


def test_columns_of_boxes_hold_no_labels(root: Path):
    """As NIH's `Image Index,Finding Label,Bbox [x,y,w,h]`."""
    rows = "".join(
        f"im/{name}.png,{label},1,2,3,4\n" for name, label in zip("abcd", "xyxy", strict=True)
    )
    found = find(written(root, f"Image Index,Finding Label,Bbox [x,y,w,h]\n{rows}"))
    assert pairs(found) == {"train": dict(zip("abcd", "xyxy", strict=True))}


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "labels.csv is empty"),
    "a head alone": (HEAD, "no rows below the names of its columns"),
    "one column": ("image\nim/a.png\n", "has only one column"),
    "no such images": (
        HEAD + FOUR.replace("a.png", "x.png").replace("d.png", "D.png"),
        r"2 of 4 rows of .*, column 'image', name images that are not there: row 2 "
        r"\('im/x.png'\), row 5 \('im/D.png'\). They were looked for in ",
    ),
    "addresses": (HEAD + FOUR.replace("im/", "https://x/q"), "These are addresses: download"),
    "an empty cell": (HEAD + FOUR + ",ant\n", r"no image for 1 of 5 rows \(row 6\)"),
    "empty labels": (
        HEAD + FOUR + "im/e.png,\nim/f.png,NaN\n",
        r"column 'label': no label for 2 of 6 rows \(row 6, row 7\)",
    ),
    "two labels": (
        HEAD + FOUR + "im/a.png,bee\n",
        "im/a.png is 'ant' in row 2 and 'bee' in row 6",
    ),
    "two splits": (
        "image,label,split\nim/a.png,ant,train\nim/b.png,bee,train\nim/a.png,ant,test\n",
        "im/a.png is 'train' in row 2 and 'test' in row 4",
    ),
    "several labels": (HEAD + FOUR + "im/e.png,ant|bee\n", "several labels for an image: 1 of 5"),
    "several labels by commas": (
        HEAD + FOUR + 'im/e.png,"ant, bee"\n',
        "several labels for an image",
    ),
    "several labels in JSON": (
        '{"file_name": "im/a.png", "label": ["ant", "bee"]}\n'
        '{"file_name": "im/b.png", "label": ["bee"]}\n',
        "several labels for an image",
    ),
    "several ones": (
        "image,MEL,NV\nim/a.png,1,0\nim/b.png,0,1\nim/c.png,1,1\n",
        r"1 of 3 rows \(row 4\) have more than one 1. To learn all of them: --task multilabel",
    ),
    "no one": ("image,MEL,NV\nim/a.png,1,0\nim/b.png,0,0\n", r"no label for 1 of 2 rows \(row 3\)"),
    "two columns of labels": (
        "image,label,species\nim/a.png,ant,x\nim/b.png,bee,x\n",
        "could hold the labels: 'label', 'species'; they say different things. Name one: "
        "--label-column label",
    ),
    "two columns of images": (
        "image,file,label\nim/a.png,im/b.png,ant\nim/b.png,im/c.png,bee\n",
        "could hold the images: 'image', 'file'; each leads to other files",
    ),
    "no column of labels": ("image,age\nim/a.png,3\nim/b.png,4\n", "has no column of labels"),
    "no column of images": ("colour,label\nred,ant\nblue,bee\n", "No column of .* leads to image"),
    "regression": (HEAD + FOUR.replace("ant", "0.5").replace("bee", "2"), "numbers such as 0.5"),
    "captions": (
        HEAD + "".join(f"im/{'abcdef'[i % 6]}.png,caption {i}\n" for i in range(30)),
        "30 different values in 30 rows, as identifiers or captions",
    ),
    "Latin-1": ((HEAD + FOUR.replace("bee", "abeja ñ")).encode("latin-1"), "not in UTF-8: see row"),
    "UTF-16 without a mark": ((HEAD + FOUR).encode("utf-16-le"), "NUL characters"),
    "an open quotation mark": (HEAD + FOUR + 'im/e.png,"ant\n', r"row 6: the quotation marks"),
    "commas in a class": (
        HEAD + FOUR + "im/e.png,ant, red\n",
        "more cells than the first row's 2: row 6. Put text",
    ),
    "an Excel workbook": (b"PK\x03\x04" + bytes(40), "an Excel workbook or a zip archive"),
    "compressed": (b"\x1f\x8b" + bytes(40), "compressed with gzip: unpack it"),
    "a pointer of Git LFS": ("version https://git-lfs.github.com/spec/v1\noid 1\n", "Git LFS"),
    "broken JSON": ('{"file_name": "im/a.png", "label"\n', "row 1 is no JSON: "),
    "no JSON object": ('{"file_name": "im/a.png", "label": "a"}\n3\n', "row 2 is no JSON object"),
    "words that are no splits": (
        "image,label,split\nim/a.png,ant,train\nim/b.png,bee,0\n",
        "something else than train, val or test: '0' in 1 row.s., the first being row 3",
    ),
    "of the training images or not": (
        "image,label,is_train\nim/a.png,ant,1\nim/b.png,bee,0\n",
        "'is_train' of .* does not say whether the other rows are for validation or for the test",
    ),
    "no training images": (
        "image,label,split\nim/a.png,ant,test\nim/b.png,bee,test\n",
        "no training images, only those of test",
    ),
    "pixels": (",".join(map(str, range(600))) + "\n", "600 columns, as tables of pixels have"),
    "one class": (HEAD + "im/a.png,ant\n", "only 1 class, 'ant'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(root: Path, case: str):
    text, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        load(written(root, text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "img"}, "--image-column img: .* no such column.* are image, label"),
        ({"label_column": "labl"}, "Did you mean 'label'"),
        ({"split_column": "fold"}, "--split-column fold: .* no such column"),
        ({"image_column": "label"}, "--image-column|cannot be both|no column of labels"),
        ({"image_root": "nowhere"}, "no folder nowhere"),
        ({"classes": "top"}, "--classes: no effect"),
    ],
)
def test_columns_that_are_not_there(root: Path, options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        find(written(root, HEAD + FOUR), SourceOptions(**options))


def test_files_that_are_not_there(root: Path):
    written(root, HEAD + FOUR)
    with pytest.raises(UserError, match=r"no file .*label.csv. Did you mean 'labels.csv'"):
        find(f"csv:{root}/label.csv")
    with pytest.raises(UserError, match="has no table"):
        find(f"csv:{root}/im")
    written(root, HEAD + FOUR, "other.csv")
    with pytest.raises(UserError, match=r"several tables: labels.csv, other.csv. Give one"):
        find(f"csv:{root}")


def test_a_name_without_extension_that_two_files_have(root: Path):
    shutil.copy(root / "im/a.png", root / "im/a.jpg")
    text = "id,label\n" + FOUR.replace(".png", "")
    with pytest.raises(UserError, match=r"row 2 \('im/a'\): a.*, a.*. Write whole paths"):
        find(written(root, text))


def test_one_missing_file_among_many_rows(root: Path):
    lines = [f"im/{'abcdef'[i % 6]}.png,{'xy'[i % 2]}\n" for i in range(100_000)]
    lines[77_777] = "im/none.png,x\n"
    with pytest.raises(UserError, match=r"1 of 100,000 rows .* row 77779 \('im/none.png'\)\. They"):
        find(written(root, HEAD + "".join(lines)))


def test_the_same_images_in_folders_have_the_same_keys(tmp_path: Path):
    """So features that are cached for the one are found by the other; other labels are others."""
    for name, label in READ["train"].items():
        (tmp_path / label).mkdir(exist_ok=True)
        image = encode(flat(colour=(ord(name), 0, 0)), "PNG")
        (tmp_path / label / f"{name}.png").write_bytes(image)
    folder = load(f"folder:{tmp_path}")
    text = HEAD + "bee/d.png,bee\nant/c.png,ant\nbee/b.png,bee\nant/a.png,ant\n"
    table = load(written(tmp_path, text))
    assert table.fingerprint == folder.fingerprint
    for one, other in ((table.train, folder.train), (table.val, folder.val)):
        assert one.names == other.names
        assert one.labels.tolist() == other.labels.tolist()
    others = {
        load(written(tmp_path, changed)).fingerprint
        for changed in (text.replace(",bee", ",wasp"), text.replace("c.png,ant", "c.png,bee"))
    }
    assert len(others | {table.fingerprint}) == 3


def test_options_are_kept_and_older_runs_open():
    config = Config(data=DataConfig(data="csv:x.csv", split_column="none", image_root="im"))
    assert Config.from_dict(config.to_dict()) == config
    old = config.to_dict()
    for name in ("split_column", "image_root"):
        del old["data"][name]
    assert Config.from_dict(old).data.split_column is None


def test_check(root: Path, capsys: pytest.CaptureFixture[str]):
    source = written(root, HEAD + FOUR).removeprefix("csv:")
    check_command.command(check_command.Options("check", source))
    out = capsys.readouterr().out
    assert "labels:   from the column 'label' of labels.csv (images: 'image'), such as" in out
    assert "im/a.png = ant" in out


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_in_a_folder_of_images_is_found(root: Path, name: str):
    head = "file_name,label\n"
    text = head + FOUR
    if name.endswith("jsonl"):
        keys = [line.split(",") for line in FOUR.split()]
        text = "".join(json.dumps({"file_name": f, "label": c}) + "\n" for f, c in keys)
    written(root, text, name)
    assert pairs(find(f"folder:{root}")) == READ
    train, test = root / "s/train", root / "s/test"
    shutil.copytree(root / "im", train / "im")
    shutil.copy(root / name, train / name)
    shutil.copytree(root / "im", test)
    written(test, head + "e.png,ant\n", "metadata.csv")
    assert pairs(find(str(root / "s"))) == READ | {"test": {"e": "ant"}}
