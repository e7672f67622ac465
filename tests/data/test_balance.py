"""Weights that make all classes count the same: in a step, in a run, in the convex fit."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from jtl.common.errors import UserError
from jtl.config.options import AugmentConfig, Config, DataConfig, TrainConfig
from jtl.data.augment import PRESETS, Augmentation
from jtl.data.balance import balanced_weights, class_weights
from jtl.data.sampler import balanced_order
from jtl.optim import lbfgs
from jtl.runs import resume
from jtl.runs.checkpoints import reading
from jtl.runs.files import read_json
from jtl.train.fit import fit
from jtl.train.step import Batch, Constants, TrainStep
from support import tiny
from support.augmented import augmented, figures, step_arguments

WEIGHTS = np.array([0.25, 1, 4], np.float32)
OF_6_4_2 = [np.float32(12 / (3 * count)) for count in (6, 4, 2)]


def test_the_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 3], [70, 20, 10])
    weights = balanced_weights(labels, 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights[2] == weights[4] == 0
    assert weights[labels].mean() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_the_step_minimizes_the_weighted_mean(mixed: bool):
    """One step of SGD against the gradient of the definition, with whole and with shared labels."""
    images, labels, examples = tiny.images(8), tiny.labels(8), np.arange(8)
    options = PRESETS["strong"] if mixed else PRESETS["light"]
    augment = Augmentation(options, tiny.PREPARE, len(tiny.CLASSES))
    state, frozen, static = step_arguments(augment)
    x, targets = jax.jit(augment)(state.rng, images, labels, examples, 1, state.step)
    shares = targets if mixed else jax.nn.one_hot(targets, 3)
    assert bool((shares.max(1) < 1).any()) is mixed
    variables = tiny.variables()

    @jax.jit
    def gradient(params, weights):
        def objective(params):
            logits, _ = tiny.MODEL.apply(
                {**variables, "params": params},
                x,
                train=static["train_units"],
                mutable=["batch_stats"],
            )
            terms = shares * jax.nn.log_softmax(logits)
            return -(terms * weights.reshape(1, 3)).sum() / 8, -terms.sum()

        return jax.grad(objective, has_aux=True)(params)

    grads, loss = gradient(variables["params"], WEIGHTS)
    plain, _ = gradient(variables["params"], np.ones(3, np.float32))
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, grads, plain))) > 0.1
    constants = Constants(**frozen, class_weights=jnp.asarray(WEIGHTS))
    batch = Batch(images, labels, examples, 1)
    after, metrics = TrainStep(**static)(state, constants, batch)
    moved = jax.tree.map(lambda new, old: (old - new) / 0.1, after.params, variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4), moved, grads)
    # Told is the loss as validation has it.
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)


@pytest.fixture(scope="module")
def lopsided(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6, 4 and 2 training images, and weights beside them."""
    folder = tmp_path_factory.mktemp("lopsided")
    tiny.write_weights(folder / "weights")
    data = tiny.write_folder(folder / "tiny")
    for name, count in zip(tiny.CLASSES, (6, 4, 2), strict=True):
        for index in range(count, 6):
            (data / "train" / name / f"{index}.png").unlink()
    return data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "augment"), [("head_only", "none"), ("last_stage", "none"), ("full", "strong")]
)
def test_a_run_and_its_resumption(lopsided: Path, tmp_path: Path, monkeypatch, mask, augment):
    def config(name: str, class_weights: str = "balanced"):
        options = dict(mask=mask, epochs=3, class_weights=class_weights)
        return augmented(lopsided, tmp_path / name, AugmentConfig(augment), **options)

    whole, plain = (fit(config(name, name), tiny.quiet()) for name in ("balanced", "none"))
    assert whole.summary["class_weights"] == OF_6_4_2
    assert plain.summary["class_weights"] is None
    tiny.fit_until(1, config("resumed"), monkeypatch)
    resumed = fit(tiny.resumed(tmp_path / "resumed"), tiny.quiet())
    assert figures(resumed) == figures(whole)
    end, expected, other = (
        reading.restore(run.folder, "latest").variables for run in (resumed, whole, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, end, expected)
    head = [tree["params"]["head"]["logits"]["kernel"] for tree in (expected, other)]
    assert np.abs(head[0] - head[1]).max() > 1e-3
    assert whole.summary["frozen_unchanged"]


def test_the_weights_are_stored_with_the_run(lopsided: Path, tmp_path: Path, monkeypatch):
    config = tiny.config(lopsided, tmp_path / "run", class_weights="balanced")
    tiny.fit_until(1, config, monkeypatch)
    path = tmp_path / "run" / "config.json"
    stored = read_json(path)
    assert stored["class_weights"] == OF_6_4_2
    assert stored["train"]["class_weights"] == "balanced"
    path.write_text(json.dumps({**stored, "class_weights": [1, 1, 1]}))
    with pytest.raises(UserError, match=r"class_weights: \[1, 1, 1\] before, \[0\.66"):
        fit(tiny.resumed(tmp_path / "run"), tiny.quiet())


@pytest.mark.parametrize("l2", [1.0, 1e-1])
def test_the_weighted_optimum_is_scikit_learns(l2: float):
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(3), [200, 60, 15]).astype(np.int32)
    x = (rng.normal(size=(3, 12))[y] + rng.normal(size=(len(y), 12)) + 5).astype(np.float32)
    train = (jnp.asarray(x), jnp.asarray(y))
    weights = balanced_weights(y, 3)
    [ours], [plain] = (lbfgs.fit_path(train, train, 3, (l2,), w) for w in (weights, None))
    reference = LogisticRegression(
        C=1 / (len(x) * l2), tol=1e-8, max_iter=10_000, class_weight="balanced"
    ).fit(x.astype(np.float64), y)
    assert np.abs(plain.kernel - reference.coef_.T).max() > 2e-2
    np.testing.assert_allclose(ours.kernel, reference.coef_.T, atol=2e-4)


def test_a_solved_run_is_weighted(lopsided: Path, tmp_path: Path):
    options = dict(solver="lbfgs", epochs=None, lr=None, l2="0.1")
    heads = []
    for choice in ("balanced", "none"):
        run = fit(
            tiny.config(lopsided, tmp_path / choice, class_weights=choice, **options), tiny.quiet()
        )
        heads.append(reading.restore(run.folder).variables["params"]["head"]["logits"]["bias"])
    # The rarest class is chosen more often.
    assert heads[0][2] - heads[0][0] > heads[1][2] - heads[1][0] + 0.1


NAMES, LABELS = ("ant", "bee", "cow"), np.repeat([0, 1, 2], [6, 4, 2])


def weights_of(text: str) -> np.ndarray:
    found = class_weights(text, LABELS, NAMES)
    assert found is not None
    assert found.dtype == np.float32
    assert found[LABELS].mean() == pytest.approx(1)
    return found


def test_weights_by_strength_and_name(tmp_path: Path):
    assert class_weights("none", LABELS, NAMES) is None
    np.testing.assert_array_equal(weights_of("balanced"), balanced_weights(LABELS, 3))
    root = 1 / np.sqrt([6, 4, 2])
    found = weights_of("balanced:0.5")
    np.testing.assert_allclose(found / found[0], root / root[0], rtol=1e-6)
    found = weights_of("cow=4, ant=0.5")
    np.testing.assert_allclose(found / found[1], [0.5, 1, 4], rtol=1e-6)
    for name, text in (
        ("w.csv", "class,weight\ncow,4\nant,0.5\n"),
        ("x.csv", "cow,4\nant,.5\n"),
        ("w.json", '{"cow": 4, "ant": 0.5}'),
    ):
        (tmp_path / name).write_text(text)
        np.testing.assert_array_equal(weights_of(str(tmp_path / name)), found)


def test_weights_of_several_labels():
    labels = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], np.uint8)
    for text, expected in (
        ("balanced", [1 / 3, 3]),
        ("balanced:2", [1 / 9, 9]),
        ("bee=5", [1, 5]),
    ):
        np.testing.assert_allclose(class_weights(text, labels, NAMES[:2]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evenly", "there is no such file. Give none, balanced, balanced:0.5, name=2"),
        ("cat=2", "there is no class 'cat'"),
        ("ant=-1", r"the weight of 'ant' must be a number from 1e-06 to 1e\+06, not '-1'"),
        ("ant=0", "not '0'"),
        ("ant=x", "not 'x'"),
        ("ant=1e39", "not '1e39'"),
        ("ant=1e-50", "not '1e-50'"),
        ("ant=2,bee", "'bee' is no NAME=WEIGHT"),
        ("ant=2,ant=3", "'ant' has two weights"),
        ("rows.csv", "each row must be a class and its weight, such as 'ant,2', not 'ant,2,3'"),
        ("twice.csv", "a class stands in several rows"),
        ("empty.csv", "there are no weights in it"),
        ("list.json", "it must contain an object"),
        ("bad.json", "it is no JSON"),
        ("true.json", "the weight of 'ant' must be a number .* not True"),
        ("latin.csv", "it cannot be read"),
    ],
)
def test_refused_weights(tmp_path: Path, monkeypatch, text: str, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("ant,2,3\n")
    (tmp_path / "twice.csv").write_text("ant,2\nant,3\n")
    (tmp_path / "empty.csv").write_text("class,weight\n")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "true.json").write_text('{"ant": true}')
    (tmp_path / "latin.csv").write_bytes(b"\xe9,1\n")
    with pytest.raises(UserError, match=f"--class-weights {text}: .*{message}"):
        class_weights(text, LABELS, NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": "balanced:0"}, "must be above 0 and at most 2"),
        ({"class_weights": "balanced:x"}, "must be above 0 and at most 2"),
        ({"class_weights": " "}, "must be none, balanced"),
        ({"class_weights": "balanced:0.5", "sampler": "balanced"}, "Leave one of them out"),
        ({"solver": "lbfgs", "sampler": "balanced", "mask": "head_only"}, "--sampler"),
    ],
)
def test_refused_options(options: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        Config(train=TrainConfig(**options)).check()  # pyright: ignore[reportArgumentType]


def test_a_balanced_epoch_has_as_many_images_of_every_class():
    labels = np.repeat([0, 1, 3], [70, 20, 10])
    order = balanced_order(labels, 0, 1)
    assert order.dtype == np.int32
    assert len(order) == 100
    assert sorted(np.bincount(labels[order], minlength=4).tolist()) == [0, 33, 33, 34]
    assert np.bincount(order)[:70].max() == 1  # Of a large class none twice.
    times = np.bincount(order, minlength=100)[90:]
    assert times.min() >= 3  # Of a small one all.
    assert times.max() <= 4
    np.testing.assert_array_equal(order, balanced_order(labels, 0, 1))
    assert not np.array_equal(order, balanced_order(labels, 0, 2))


def test_a_balanced_epoch_of_several_labels():
    random = np.random.default_rng(0)
    labels = (random.random((200, 3)) < [0.03, 0.2, 0.6]).astype(np.uint8)
    order = balanced_order(labels, 0, 1)
    assert len(order) == 200
    shares = labels[order].mean(0)
    assert shares[0] > 0.2  # A quarter is drawn for it.
    assert (labels[order].sum(1) == 0).mean() == pytest.approx(0.25, abs=0.01)


def test_a_run_of_balanced_epochs_resumes_bit_for_bit(lopsided: Path, tmp_path: Path, monkeypatch):
    options = dict(sampler="balanced", epochs=3)
    whole = fit(tiny.config(lopsided, tmp_path / "a", **options), tiny.quiet())
    assert whole.config.train.solver == "sgd"
    tiny.fit_until(2, tiny.config(lopsided, tmp_path / "b", **options), monkeypatch)
    other = fit(tiny.resumed(tmp_path / "b"), tiny.quiet())
    keys = ("train_loss", "val_loss", "train_accuracy")
    assert [[line[key] for key in keys] for line in other.history] == [
        [line[key] for key in keys] for line in whole.history
    ]


def test_weights_of_many_names_are_no_path():
    names = [f"class {number}" for number in range(400)]
    text = ",".join(f"{name}=2" for name in names)
    found = class_weights(text, np.arange(400), names)
    np.testing.assert_array_equal(found, np.ones(400))


def test_a_file_of_weights_is_found_from_elsewhere(lopsided: Path, tmp_path: Path, monkeypatch):
    """As the data and the weights are, for which a run has where it was started."""
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "w.csv").write_text("ash,2\n")
    monkeypatch.chdir(tmp_path / "begun")
    config = tiny.config(lopsided, tmp_path / "run", class_weights="w.csv", mask="head_only")
    tiny.fit_until(1, config, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert fit(tiny.resumed(tmp_path / "run"), tiny.quiet()).summary["best_epoch"]


def test_other_paths_of_a_run_are_found_from_elsewhere(tmp_path: Path, monkeypatch):
    for name in ("images", "rules.txt", "w.json", "balanced"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "images")
    given = Config(
        data=DataConfig(data="digits", image_root="images"),
        train=TrainConfig(mask="rules:rules.txt", class_weights="w.json"),
    )
    moved = resume._relocated(given, str(tmp_path))
    assert moved.data.image_root == str(tmp_path / "images")
    assert moved.train.mask == f"rules:{tmp_path / 'rules.txt'}"
    assert moved.train.class_weights == str(tmp_path / "w.json")
    rules = "rules:" + "head/.*=train;" * 60
    for mask, weights in (("head_only", "balanced"), (rules, "ant=2," * 90 + "bee=1")):
        plain = Config(train=TrainConfig(mask=mask, class_weights=weights))
        assert resume._relocated(plain, str(tmp_path)) == plain
