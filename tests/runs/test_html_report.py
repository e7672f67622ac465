"""`report.html`: what it shows, that it needs nothing else, and that no name does any harm."""

from __future__ import annotations

import base64
import csv
import hashlib
import html.parser
import io
import json
import re
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.runs import evaluation_files, familiarity, metrics, multilabel, plot_worker, report
from jtl.runs.calibration import calibration
from jtl.runs.evaluation import Evaluation
from jtl.runs.html_report import charts, content, feature_map, page
from jtl.train.fit import fit
from support import tiny
from support.commands import main

EVIL = ("<img src=x onerror=alert(1)>", '=HYPERLINK("x")', "\x1b[31mred", "[x](javascript:1)")


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: elements with their attributes, and texts by element."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.elements[-1][0] if self.elements else ""
        self.texts.append((tag, data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> str:
        return next(data for name, data in self.texts if name == tag)


class Images(SimpleNamespace):
    """As a split."""

    def __len__(self) -> int:
        return len(self.labels)


def images_of(labels: np.ndarray, names: list[str], *, size: int = 8, bad: int = -1) -> Any:
    """Images of which each shows its number; one of them cannot be read."""

    def read(rows: np.ndarray, transform: Any) -> np.ndarray:
        if bad in rows:
            raise UserError("it is gone")
        side = size if transform is None else transform.size
        grain = np.random.default_rng(int(rows[0])).integers(0, 256, (len(rows), side, side, 3))
        return grain.astype(np.uint8)

    native = (size, size) if size < 96 else None
    return Images(labels=labels, names=names, read=read, native_size=lambda: native)


def gathered(run: Any, classes: int, count: int, several: bool = False, **images: Any) -> Any:
    """What a page is made of, for a run of other images than it had."""
    random = np.random.default_rng(0)
    names = [*EVIL, *(f"class {number}" for number in range(4, classes))][:classes]
    labels = random.integers(0, classes, count).astype(np.int32)
    logits = (4 * np.eye(classes)[labels] + random.normal(size=(count, classes)) * 2).astype("f4")
    features = random.normal(size=(classes, 32))[labels] + random.normal(size=(count, 32))
    thresholds = None
    if several:
        labels = (np.eye(classes)[labels] + (random.random((count, classes)) < 0.1)) > 0
        labels = labels.astype(np.uint8)
        labels[0] = 0
        thresholds = multilabel.fit_thresholds(logits - 2, labels)
        scores = multilabel.scores("val", logits - 2, labels, names, thresholds)
        logits = logits - 2
    else:
        by_class = metrics.by_class(logits.argmax(-1), labels, names)
        scores = {
            "val_accuracy": float((logits.argmax(-1) == labels).mean()),
            "val_macro_f1": metrics.macro_f1(by_class),
            "val_classes": by_class,
            "val_calibration": calibration(logits, labels),
        }
    files = [f"{EVIL[row % 4]}/{row}.jpg" for row in range(count)]
    split = images_of(labels, files, **images)
    summary = run.summary | scores | {
        "task": "multilabel" if several else "single-label", "class_names": names,
        "num_classes": classes, "num_val": count, "data": f"folder:{EVIL[0]}",
        "notes": [EVIL[0], EVIL[2]], "val_accuracy": scores.get("val_accuracy", 0.5),
    }  # fmt: skip
    evaluation = Evaluation({"split": "val"} | scores, logits, split, 1.0, thresholds)
    rows = np.arange(min(count, 60))
    on_map = rows, features[rows].astype(np.float32)
    found = content.gather(evaluation, names, summary, run.config, run.history, on_map)
    return json.loads(json.dumps(found))


@pytest.mark.parametrize(("classes", "several"), [(4, False), (5, True)])
def test_no_name_does_anything(tiny_run, classes, several):
    text = page.page(gathered(tiny_run, classes, 60, several))
    found = Page(text)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"img", "iframe", "object", "embed", "link", "form", "base", "image", "use"}
    assert len(found.all("script")) == len(found.all("style")) == 1
    for tag, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcdoc", "style", "action")
            assert name != "href" or re.fullmatch(r"#cell-\d+-\d+", value or "")
    assert "\x1b" not in text
    # They are there all the same.
    for name in (EVIL[0], EVIL[1], "\ufffd[31mred", EVIL[3]):
        assert any(name in told for _, told in found.texts), name


def test_a_page_asks_for_nothing_and_runs_only_its_own_script(tiny_run):
    text = page.page(gathered(tiny_run, 4, 60))
    found = Page(text)
    policy = next(
        meta["content"] for meta in found.all("meta") if meta.get("http-equiv") is not None
    )
    assert "default-src 'none'; img-src data:;" in (policy or "")
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(found.text(tag).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in (policy or "")
    for address in re.findall(r"url\(([^)]*)\)", text):
        assert address.startswith("data:image/jpeg;base64,")
    assert "http://" not in text
    assert "https://" not in text


def test_without_its_script_a_page_shows_all(tiny_run):
    gave = gathered(tiny_run, 4, 80)
    found = Page(page.page(gave))
    links = {link["href"] for link in found.all("a")}
    behind = {f"#{div['id']}" for div in found.all("div") if "behind" in (div.get("class") or "")}
    assert links
    assert links == behind
    # Every cell that has images leads to some, of those that it counts.
    counts = {(r, c): count for r, c, count in gave["confusion"]}
    shown: dict[str, int] = {}
    for cell, row in gave["views"]["cells"]:
        shown[cell] = shown.get(cell, 0) + 1
        actual, predicted = (gave["names"][int(part)] for part in cell.split("-"))
        described = gave["images"][str(row)]
        assert (described["actual"], described["predicted"]) == (actual, predicted)
    assert shown == {f"{r}-{c}": min(count, 6) for (r, c), count in counts.items()}
    # An image that is in several places is in the page once.
    rules = re.findall(r"\.i(\d+)\{", page.page(gave))
    assert len(rules) == len(set(rules)) == sum(1 for i in gave["images"].values() if i["jpeg"])
    with Image.open(io.BytesIO(base64.b64decode(gave["images"]["0"]["jpeg"]))) as image:
        assert image.size == (8, 8)  # Small ones stay as they are.


@pytest.mark.parametrize("classes", [200, 201])
def test_a_page_of_many_classes_stays_small(tiny_run, classes):
    gave = gathered(tiny_run, classes, 2000, size=400)
    text = page.page(gave)
    assert len(text) < 5_000_000
    # Noise is what JPEG packs worst, so not all images have room; the mistakes come first.
    assert all(gave["images"][str(row)]["jpeg"] for _, row in gave["views"]["mistakes"])
    assert (charts.confusion(gave) is not None) == (classes == 200)
    assert 0 < len(charts.confused(gave)) <= 10


def test_images_that_are_gone_are_left_out(tiny_run):
    gave = gathered(tiny_run, 4, 40, bad=3)
    assert gave["images"]["3"]["jpeg"] is None
    assert sum(1 for one in gave["images"].values() if one["jpeg"] is None) == 1
    assert "not shown" in page.page(gave)


def test_the_least_sure_are_those_between_two_classes(tiny_run):
    gave = gathered(tiny_run, 4, 60)
    shares = [gave["images"][str(row)]["share"] for _, row in gave["views"]["unsure"]]
    everywhere = [one["share"] for one in gave["images"].values()]
    assert max(shares[:3]) < np.median(everywhere)


def test_the_map_keeps_neighbours_together():
    random = np.random.default_rng(1)
    centers = random.normal(size=(3, 40))
    labels = np.repeat(np.arange(3), 30)
    features = centers[labels] + 0.1 * random.normal(size=(90, 40))
    components = feature_map.components(features).tolist()
    assert feature_map.places(components, neighbours=False)[1] == "PCA"
    found, method = feature_map.places(components, neighbours=True)
    assert method in ("t-SNE", "PCA")
    assert found.min() == 0
    assert found.max() == 1
    apart = np.linalg.norm(found[:, None] - found[None], axis=-1) + np.eye(90)
    assert (labels[apart.argmin(1)] == labels).all()
    few, method = feature_map.places(feature_map.components(features[:4]).tolist(), neighbours=True)
    assert (few.shape, method) == ((4, 2), "PCA")


def test_classes_that_follow_each_other_have_colours_far_apart():
    for classes in (10, 200):
        colours = [charts.colour(label, classes) for label in range(classes)]
        values = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours])
        assert (np.abs(np.diff(values, axis=0)).sum(1) > 60).all()


@pytest.mark.usefixtures("real_report")
def test_a_training_leaves_its_report(tmp_path, tiny_data):
    folder = tiny.write_folder(tmp_path / "data", train=8, val=4)
    for old, new in zip(tiny.CLASSES, EVIL, strict=False):
        for split in ("train", "val"):
            (folder / split / old).rename(folder / split / new)
    weights = str(tiny_data.parent / "weights")
    options: dict[str, Any] = dict(weights=weights, mask="full", epochs=5)
    run = fit(tiny.config(folder, tmp_path / "run", **options), tiny.quiet())
    files = {path.name for path in run.folder.iterdir()}
    assert {"report.html", "confusion.png", "reliability.png", "mistakes.csv"} <= files
    assert familiarity.FILE in files
    assert ("mistakes.png" in files) == (run.summary["val_accuracy"] < 1)
    text = (run.folder / "report.html").read_text()
    assert "t-SNE" not in text  # Of twelve images.
    found = Page(text)
    assert not found.all("img")
    assert any(EVIL[0] in told for _, told in found.texts)
    markdown = (run.folder / report.PAGE).read_text()
    assert "\x1b" not in markdown
    assert "<img" not in markdown.replace("\\<img", "")
    for name in re.findall(r"\]\((\w+\.png)\)", markdown):
        assert (run.folder / name).is_file()
    # A run that has none, as of a search's trial, gets one where it is evaluated.
    (run.folder / "report.html").unlink()
    (run.folder / familiarity.FILE).unlink()
    assert main("evaluate", run.folder) == 0
    again = Page((run.folder / "report.html").read_text())
    assert [tag for tag, _ in again.elements] == [tag for tag, _ in found.elements]
    assert familiarity.load(run.folder, run.summary["best_epoch"]) is not None
    rows = list(csv.reader(io.StringIO((run.folder / "mistakes.csv").read_text())))
    for row in rows[1:]:
        assert not any(cell.startswith("=") or "\x1b" in cell for cell in row)


def test_names_in_markdown_and_tables():
    escaped = report._markdown([EVIL[3], report.Code(EVIL[2])])
    assert escaped == r"\[x\](javascript:1)`" + "\ufffd[31mred`"
    evaluation: Any = SimpleNamespace(
        logits=np.array([[0.0, 1.0]]), temperature=1.0, thresholds=None,
        images=SimpleNamespace(labels=np.array([0]), names=[EVIL[2]]),
    )  # fmt: skip
    table = evaluation_files.mistakes_table(evaluation, (EVIL[1], EVIL[2]))
    assert table.splitlines()[1].startswith('\ufffd[31mred,"\'=HYPERLINK(""x"")",\ufffd[31mred,')


@pytest.mark.usefixtures("real_report")
def test_results_stand_where_images_are_gone_before_the_report(tmp_path, tiny_data, capsys):
    folder = tiny.write_folder(tmp_path / "data", train=8, val=4)
    weights = str(tiny_data.parent / "weights")
    options = tiny.config(folder, tmp_path / "run", weights=weights, mask="full", epochs=5)
    with plot_worker.PlotWorker() as worker:
        run = fit(options, worker=worker)
        assert run.summary["num_val"] == 12
        assert worker.has_more
        shutil.rmtree(folder / "val")
    assert not (run.folder / "report.html").exists()
    assert "warning: the run has no report.html: " in capsys.readouterr().err
