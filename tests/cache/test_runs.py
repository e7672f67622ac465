"""Runs with and without the cache of frozen prefixes: the same results from less work."""

from __future__ import annotations

import collections
import dataclasses
import errno
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from jtl import models
from jtl.cache import entry as entry_module
from jtl.cache import extraction, sizes
from jtl.cache.keys import key_of, prefix_of
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.trees import lookup
from jtl.config.options import Config
from jtl.data import verification
from jtl.data.augment import PRESETS, View
from jtl.data.decoding import HostTransform
from jtl.data.sources import encoded, registry
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.verification import Verification
from jtl.evaluate.evaluation import evaluate_run
from jtl.models import HeadSpec, ImageClassifier
from jtl.predict import classifier
from jtl.runs.checkpoints import reading, saving
from jtl.runs.checkpoints.saving import CheckpointPolicy
from jtl.runs.run import Run
from jtl.train import step
from jtl.train.checks import checked
from jtl.train.dry_run import dry_run
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from jtl.train.trainer import Trainer
from support import tiny
from support.data_files import flat
from weights_convert.convert.rules import leaf_paths

pytestmark = pytest.mark.slow

TRAIN, VAL = 18, 9
"""Images of `tiny_data`."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(sizes.LIMIT, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """Counts images that are decoded, and passes of the frozen prefix over batches."""
    counts: collections.Counter[str] = collections.Counter()
    read, forward, train_step = EncodedSplit.read, extraction.forward, step.train_step

    def counted_read(self: EncodedSplit, indices: np.ndarray, transform: Any) -> np.ndarray:
        counts["decoded"] += len(indices)
        return read(self, indices, transform)

    def counted_forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("start") is None:
            counts["prefix"] += 1
        return forward(*args, **kwargs)

    def counted_step(*args: Any, **kwargs: Any) -> Any:
        if kwargs["step"].start is None:
            counts["prefix"] += 1
        return train_step(*args, **kwargs)

    monkeypatch.setattr(EncodedSplit, "read", counted_read)
    monkeypatch.setattr(extraction, "forward", counted_forward)
    monkeypatch.setattr(step, "train_step", counted_step)
    return counts


@pytest.fixture
def train(tiny_data: Path, tmp_path: Path) -> Callable[..., tuple[Run, str]]:
    """Trains in a new folder; the run, and what was said."""

    def run(mask: str = "head_only", **options: Any) -> tuple[Run, str]:
        config = configured(tiny_data, tmp_path / f"run{len(list(tmp_path.glob('run*')))}", mask)
        for group, name in (("data", "cache_dtype"), ("run", "cache_budget")):
            if name in options:
                changed = dataclasses.replace(getattr(config, group), **{name: options.pop(name)})
                config = dataclasses.replace(config, **{group: changed})
        trained = dataclasses.replace(config.train, **options)
        console = Console(record=True, file=io.StringIO(), width=500)
        run = fit(dataclasses.replace(config, train=trained), Display(console))
        return run, console.export_text()

    return run


def configured(data: Path, folder: Path | None, mask: str) -> Config:
    return tiny.config(data, folder, mask=mask, epochs=3, batch_size=6)


def variables_of(run: Run) -> dict[str, Any]:
    return reading.restore(run.folder, "latest").variables


def assert_equal_runs(one: Run, other: Run, atol: float) -> None:
    first, second = variables_of(one), variables_of(other)
    assert leaf_paths(first) == leaf_paths(second)
    for path in leaf_paths(first):
        np.testing.assert_allclose(
            lookup(first, path), lookup(second, path), rtol=0, atol=atol, err_msg=str(path)
        )
    losses = [[line["train_loss"] for line in tiny.lines_of(run)] for run in (one, other)]
    np.testing.assert_allclose(*losses, rtol=max(atol, 1e-6) * 10)


@pytest.mark.parametrize(
    ("mask", "suffix"), [("head_only", "head"), ("last_stage", "stage2/block1")]
)
def test_less_work_gives_the_same_params(train, work, mask, suffix):
    without, _ = train(mask, cache_budget="0")
    # Three epochs of three steps and one evaluation; images are held in memory.
    assert work == {"decoded": TRAIN + VAL, "prefix": 3 * (3 + 1)}
    assert (without.summary["cached_prefix"], without.summary["features_reused"]) == (False, False)
    work.clear()
    cold, said = train(mask)
    assert work == {"decoded": 2 * extraction.PREFIX_BATCH, "prefix": 2}
    assert (cold.summary["cached_prefix"], cold.summary["features_reused"]) == (True, False)
    assert cold.summary["cut"] == suffix
    assert "from the cache" not in said
    work.clear()
    warm, said = train(mask)
    assert work == {}
    assert warm.summary["features_reused"] is True
    assert f"features of training images: {TRAIN} images from the cache" in said
    assert_equal_runs(cold, warm, 0)
    # Rounding: XLA fuses the prefix with the step in one arm and not in the other.
    assert_equal_runs(without, cold, 2e-6)
    moved = variables_of(warm)["params"]["head"]["logits"]["kernel"]
    assert np.abs(moved).max() > 0.01


@pytest.mark.parametrize("mask", ["head_only", "last_stage"])
def test_from_disk_batch_by_batch_the_same(train, work, mask):
    memory, _ = train(mask)
    disk, said = train(mask, cache_budget="1kB")
    assert "more than the 1.0 kB of memory for them (--cache-budget)" in said
    assert "reads them from disk batch by batch" in said
    assert disk.summary["cached_prefix"]
    # `head_only` takes all steps of an epoch in one program from memory, and one by one here.
    assert_equal_runs(memory, disk, 1e-6)


def test_from_disk_without_a_cache_before(train, work):
    run, said = train(cache_budget="1kB")
    assert work == {"decoded": 2 * extraction.PREFIX_BATCH, "prefix": 2}
    assert run.summary["cached_prefix"]
    assert "features of training images: 18/18 images" in said


def test_too_large_for_both_is_said_once_and_trained_without(train, cache, monkeypatch):
    monkeypatch.setenv(sizes.LIMIT, "1.2kB")
    phases = "1,head_only,1e-2;1,full,1e-2;1,head_only,1e-3"
    run, said = train(cache_budget="1kB", phases=phases, epochs=None)
    assert not run.summary["cached_prefix"]
    # 27 features of 16 float32.
    told = (
        "the features before head need 1.7 kB, more than the 1.0 kB of memory for them "
        "(--cache-budget) and the 1.2 kB on disk (JTL_CACHE_LIMIT), so every step runs the "
        "frozen layers, too"
    )
    assert said.count(told) == 1
    assert not (cache / "features").exists()


def test_a_disk_that_fills_up_leaves_memory_or_no_cache(train, cache, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entry_module, "_write", full)
    run, said = train()
    assert run.summary["cached_prefix"]
    assert said.count("No space left on device") == 1
    run, said = train(cache_budget="1kB")
    assert not run.summary["cached_prefix"]
    assert "so every step runs the frozen layers, too" in said
    assert list((cache / "features").iterdir()) == []


def test_rounded_features_train_the_float32_suffix(train, cache):
    exact, _ = train("last_stage", bn="batch")
    rounded, _ = train("last_stage", bn="batch", cache_dtype="bfloat16")
    kept = {p.parent.name: np.load(p) for p in cache.glob("features/*/values.npy")}
    assert sorted(a.dtype.name for a in kept.values()) == ["float32"] * 2 + ["uint16"] * 2
    difference = max(
        np.abs(lookup(variables_of(exact), p) - lookup(variables_of(rounded), p)).max()
        for p in leaf_paths(variables_of(exact))
    )
    # Rounding to 8 bits moves them, by far less than training does.
    assert 1e-6 < difference < 0.05
    on_disk, _ = train("last_stage", bn="batch", cache_dtype="bfloat16", cache_budget="1kB")
    assert_equal_runs(rounded, on_disk, 1e-6)
    # Evaluation rounds as training did.
    for run in (exact, rounded):
        scores = evaluate_run(classifier.load(run.folder), None, tiny.quiet()).scores
        assert scores["val_loss"] == run.summary["val_loss"]


def test_float32_is_what_float32_computation_gives_anyway(train):
    train()
    assert train(cache_dtype="float32")[0].summary["features_reused"]


def test_other_hyper_parameters_find_the_features(train, work):
    train()
    work.clear()
    for options in (dict(lr=0.1), dict(optimizer="sgd"), dict(batch_size=5), dict(bn="frozen")):
        assert train(**options)[0].summary["features_reused"], options
    solved, _ = train(solver="lbfgs", epochs=None, lr=None)
    assert solved.summary["features_reused"]
    assert work == {}


def test_a_prefix_that_trained_in_between_is_another(train, work):
    run, _ = train(phases="1,head_only,1e-2;1,full,1e-2;1,head_only,1e-2", epochs=None)
    assert run.summary["features_reused"] is False
    cuts = [line["cut"] for line in tiny.lines_of(run)]
    assert cuts == ["head", "stem", "head"]
    # Both phases of the head computed theirs.
    forwards = 2 * 2
    assert work["prefix"] == forwards + 3 + 1


@pytest.mark.parametrize("how", ["values", "description"])
def test_damage_is_said_and_computed_again(train, cache, work, how):
    first, _ = train()
    name = {"values": "values.npy", "description": "entry.json"}[how]
    for path in cache.glob(f"features/*/{name}"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    work.clear()
    second, said = train()
    assert said.count("computing features again") == 2
    assert work["prefix"] == 2
    assert_equal_runs(first, second, 0)
    assert train()[0].summary["features_reused"]


@pytest.mark.parametrize("budget", [None, "1kB"])
def test_an_interrupted_computation_goes_on_where_it_was(train, work, monkeypatch, budget):
    monkeypatch.setattr(extraction, "PREFIX_BATCH", 4)
    monkeypatch.setattr(entry_module, "CHUNK_ROWS", 4)
    whole, _ = train(cache_budget="0")
    forward = extraction.forward

    def breaks(*args: Any, **kwargs: Any) -> Any:
        if work["prefix"] == 3:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    work.clear()
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "forward", breaks)
        with pytest.raises(KeyboardInterrupt):
            train(cache_budget=budget)
    work.clear()
    run, said = train(cache_budget=budget)
    # Three of the five batches of train are there; val has three.
    assert work == {"prefix": 2 + 3, "decoded": 4 * (2 + 3)}
    assert f"features of training images: {TRAIN}/{TRAIN} images" in said
    assert_equal_runs(whole, run, 2e-6)
    assert train(cache_budget=budget)[0].summary["features_reused"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_run_goes_on_with_the_cache_or_without(
    train, tiny_data, tmp_path, cache, monkeypatch, gone
):
    whole, _ = train("last_stage")
    epoch = Trainer.epoch

    def breaks(self: Trainer, number: int, *args: Any) -> Any:
        if number == 3:
            raise RuntimeError("in the third epoch")
        return epoch(self, number, *args)

    folder = tmp_path / "cut-off"
    with monkeypatch.context() as patch:
        policy = CheckpointPolicy(seconds=-1.0)
        patch.setattr(saving, "DEFAULT_POLICY", policy)
        patch.setattr(Trainer, "epoch", breaks)
        with pytest.raises(RuntimeError, match="third"):
            fit(configured(tiny_data, folder, "last_stage"), tiny.quiet())
    if gone:
        shutil.rmtree(cache)
    resumed = fit(tiny.resumed(folder), tiny.quiet())
    assert resumed.summary["features_reused"] is not gone
    assert_equal_runs(whole, resumed, 0)


def test_the_test_split_is_kept_too(tiny_data, tmp_path, work):
    data = tmp_path / "images"
    shutil.copytree(tiny_data, data)
    shutil.copytree(tiny_data / "val", data / "test")
    tiny.write_weights(tmp_path / "weights")
    accuracies = []
    for index in range(2):
        work.clear()
        run = fit(tiny.config(data, tmp_path / f"with-test{index}"), tiny.quiet())
        accuracies.append(run.summary["test_accuracy"])
    assert work == {}
    assert accuracies[0] == accuracies[1] is not None


def test_dry_run_tells_what_the_cache_will_need(train, tiny_data, cache):
    def figures(budget: str | None = None) -> dict[str, Any]:
        config = configured(tiny_data, None, "head_only")
        config = dataclasses.replace(
            config, run=dataclasses.replace(config.run, cache_budget=budget)
        )
        return dry_run(prepare_setup(checked(config), tiny.quiet()))

    told = {key: figures()[key] for key in ("cache_bytes", "cache_place", "cache_kept")}
    assert told == {"cache_bytes": 27 * 16 * 4, "cache_place": "memory", "cache_kept": False}
    assert not cache.joinpath("features").exists()
    train()
    assert figures()["cache_kept"]
    assert figures()["cache_folder"] == str(cache / "features")
    assert figures("1kB")["cache_place"] == "disk"
    off = figures("0")
    assert (off["cached_prefix"], off["cache_bytes"], off["cache_place"]) == (False, 0, None)


def test_a_budget_that_is_no_size_is_refused(train):
    with pytest.raises(UserError, match="--cache-budget must be a size"):
        train(cache_budget="lots")


# What the key depends on.


def facts() -> dict[str, Any]:
    return dict(
        model=tiny.MODEL,
        variables=tiny.variables(),
        cut="stage2/block1",
        name="tiny",
        dtype="float32",
        stored=None,
        split=tiny.array_split(5),
        data="folder:somewhere",
        fingerprint="ab" * 32,
        split_name="train",
        host=HostTransform(8, 1.0, "bicubic"),
        prepare=tiny.PREPARE,
        view=None,
    )


def digest(given: dict[str, Any]) -> str:
    rest = dict(given)
    chain = {k: rest.pop(k) for k in ("model", "variables", "cut", "name", "dtype", "stored")}
    prefix = prefix_of(chain.pop("model"), chain.pop("variables"), chain.pop("cut"), **chain)
    return key_of(prefix, rest.pop("split"), **rest).digest


def changed(**changes: Any) -> dict[str, Any]:
    return {**facts(), **changes}


def touched(*path: str) -> dict[str, Any]:
    """The facts with one bit of one leaf changed."""
    given = facts()
    lookup(given["variables"], path).reshape(-1).view(np.uint32)[-1] ^= 1
    return given


NORM = tiny.NormSpec(epsilon=1e-3)
VIEW = View(PRESETS["light"], seed=0, number=1)
OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "a param": lambda: touched("params", "stem", "conv", "kernel"),
    "a statistic": lambda: touched("batch_stats", "stage1", "block1", "bn", "var"),
    "the cut": lambda: changed(cut="head"),
    "a unit's options": lambda: changed(model=ImageClassifier(tiny.TinyNet(NORM), num_classes=3)),
    "the computation's dtype": lambda: changed(dtype="bfloat16"),
    "the stored dtype": lambda: changed(stored="bfloat16"),
    "the images": lambda: changed(split=tiny.array_split(5).subset(np.arange(4))),
    "their order": lambda: changed(split=tiny.array_split(5).subset(np.array([1, 0, 2, 3, 4]))),
    "the data": lambda: changed(fingerprint="cd" * 32),
    "the split": lambda: changed(split_name="val"),
    "the decoding": lambda: changed(host=HostTransform(8, 0.9, "bicubic")),
    "the scaling of JPEGs": lambda: changed(
        host=HostTransform(8, 1.0, "bicubic", scaled_jpeg=True)
    ),
    "the preparation": lambda: changed(
        prepare=dataclasses.replace(tiny.PREPARE, method="bilinear")
    ),
    "the view": lambda: changed(view=VIEW),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_the_key_depends_on(what):
    assert digest(facts()) == digest(facts())
    assert digest(OTHERS[what]()) != digest(facts())


def relabelled() -> tiny.ArraySplit:
    split = tiny.array_split(5)
    return tiny.ArraySplit("tiny", tiny.images(5), 2 - split.labels, split.names)


SAME: dict[str, Callable[[], dict[str, Any]]] = {
    "the head's params": lambda: touched("params", "head", "logits", "kernel"),
    "a param after the cut": lambda: touched("params", "stage2", "block1", "conv", "kernel"),
    "the classes": lambda: changed(model=ImageClassifier(tiny.TinyNet(), num_classes=9)),
    "the head": lambda: changed(
        model=ImageClassifier(tiny.TinyNet(), HeadSpec(layers=("bn",), pool="max"), num_classes=3)
    ),
    "labels": lambda: changed(split=relabelled()),
    "names for people": lambda: changed(name="other", data="folder:elsewhere"),
    "float32 of float32": lambda: changed(stored="float32"),
    "arrays on the device": lambda: changed(variables=jax.device_put(tiny.variables())),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_the_key_does_not_depend_on(what):
    assert digest(SAME[what]()) == digest(facts())


def test_the_rest_of_what_computes_is_part_of_the_key(monkeypatch):
    digests = {digest(facts())}
    with monkeypatch.context() as patch:
        patch.setattr("jtl.cache.keys.PREFIX_VERSION", 0)
        digests.add(digest(facts()))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        digests.add(digest(facts()))
    with jax.default_matmul_precision("highest"):
        digests.add(digest(facts()))
    assert len(digests) == 4


@pytest.mark.parametrize("name", models.names())
def test_no_unit_is_described_by_an_address(name):
    # It would be another one in every process, and nothing would ever be found.
    units = models.create(name, num_classes=2, head=HeadSpec(source_classes=3)).units()
    assert not [unit.path for unit in units if " at 0x" in repr(unit.options)]


# The images' common size.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images that were decoded, or whose header was read."""
    monkeypatch.setattr(verification, "WORTH_SECONDS", -1.0)
    names: list[str] = []
    for look in ("decode", "decode_measured", "image_size"):
        original = getattr(encoded, look)

        def noting(data: bytes, name: str, *depth: int, look=original, **options: Any) -> Any:
            names.append(name)
            return look(data, name, *depth, **options)

        monkeypatch.setattr(encoded, look, noting)
    return names


def draw(root: Path, heights: tuple[int, int], width: int = 8) -> Path:
    """Nine images of two classes."""
    for name, height, count in (("a", heights[0], 5), ("b", heights[1], 4)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            flat(width, height).save(root / name / f"{index}.png")
    return root


def learn(data: Path, folder: Path) -> tuple[int, int] | None:
    """The common size, as a process that has just begun finds it."""
    dataset = registry.load(f"folder:{data}", verify=Verification("error", folder))
    assert (len(dataset.train), len(dataset.val)) == (7, 2)
    assert dataset.train.native_size() == dataset.val.native_size()
    return dataset.train.native_size()


@pytest.mark.parametrize(("heights", "size"), [((8, 8), (8, 8)), ((6, 6), (6, 8)), ((6, 8), None)])
def test_the_size_of_images_is_learnt_once(opened, tmp_path, heights, size):
    data = draw(tmp_path / "data", heights)
    for _ in range(3):
        assert learn(data, tmp_path / "checked") == size
    assert len(opened) == len(set(opened)) == 9
    flat(8, heights[0]).save(data / "a" / "0.png", compress_level=0)
    learn(data, tmp_path / "checked")
    assert len(opened) == 18


@pytest.mark.parametrize("part", ["all", "one size"])
def test_a_part_of_a_mixed_split_has_its_own_size(opened, monkeypatch, tmp_path, part):
    monkeypatch.setattr(encoded, "_NOTED", 2)
    data = draw(tmp_path / "data", (6, 8))
    sizes = []
    for _ in range(2):
        found = Verification("error", tmp_path / "checked")(registry.find(f"folder:{data}"))
        split = found.splits["train"]
        rows = np.arange(9) if part == "all" else np.flatnonzero(split.labels == 1)
        sizes.append(split.subset(rows).native_size())
    assert sizes == [None if part == "all" else (8, 8)] * 2
    # What is not known of a part is looked at.
    assert len(opened) == 9 + (0 if part == "all" else 4)


def test_that_a_split_is_mixed_is_among_what_is_noted(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(encoded, "_NOTED", 2)
    data = draw(tmp_path / "data", (8, 8))
    flat(8, 6).save(data / "a" / "3.png")  # Neither the first one nor the last.
    Verification("error", tmp_path / "checked")(registry.find(f"folder:{data}"))
    [note] = (tmp_path / "checked").iterdir()
    assert json.loads(note.read_text())["noted"]["sizes"] == {
        "train": [[0, 3, 8], [[8, 8], [6, 8], [8, 8]]]
    }


def test_a_damaged_note_is_made_again(opened, tmp_path):
    data = draw(tmp_path / "data", (8, 8))
    learn(data, tmp_path / "checked")
    [note] = (tmp_path / "checked").iterdir()
    good = json.loads(note.read_text())
    other = {**good["noted"], "sizes": {"train": [[], [[9, 8]]]}}
    others = [
        json.dumps({**good, "noted": other}),
        "{",
        "[]",
        "{}",
        json.dumps({**good, "noted": 3}),
    ]
    for times, text in enumerate(others, 2):
        note.write_text(text)
        assert learn(data, tmp_path / "checked") == (8, 8)
        assert len(opened) == 9 * times
    assert json.loads(note.read_text()) == good
    assert list((tmp_path / "checked").iterdir()) == [note]


def test_a_place_that_takes_no_notes_is_done_without(opened, tmp_path):
    data = draw(tmp_path / "data", (8, 8))
    (tmp_path / "checked").write_text("no folder")
    for times in (1, 2):
        assert learn(data, tmp_path / "checked") == (8, 8)
        assert len(opened) == 9 * times
