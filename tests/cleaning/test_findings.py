"""Which labels are taken for wrong, which images for near-duplicates and which for outliers."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from jtl.cleaning import neighbours, sheets, wrong_labels
from jtl.cleaning.findings import KINDS, NEAR, OUTLIER, WRONG, Finding, as_csv


def blobs(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of images around a centre for each class, and their classes."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, 1, (classes, 16))
    labels = np.arange(count) % classes
    noise = random.normal(0, 0.35, (count, 16))
    return (centres[labels] + noise).astype(np.float32), labels.astype(np.int32)


def test_labels_that_were_changed_are_found():
    features, labels = blobs(300, 4)
    wrong = np.random.default_rng(1).choice(300, 15, replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 4
    found = wrong_labels.find(features, given, 4)
    rows = [suspect.row for suspect in found]
    hits = {*wrong.tolist()} & {*rows}
    assert len(hits) >= 10
    assert len(rows) <= 17
    assert all(s.suggested == (labels[s.row],) for s in found if s.row in wrong)
    scores = [suspect.score for suspect in found]
    assert scores == sorted(scores, reverse=True)
    assert len(wrong_labels.find(features, labels, 4)) <= 2


def test_a_class_that_no_other_fold_has_is_not_judged():
    features, labels = blobs(60, 3)
    labels[7], features[7] = 3, features[8]  # The only one of its class, and like another's.
    place = np.arange(60) % 5
    _, known = wrong_labels.out_of_fold(features, labels, 4, place)
    assert not known[7, 3]
    assert known[:, :3].all()
    assert 7 not in [s.row for s in wrong_labels.find(features, labels, 4)]


def test_images_of_a_group_do_not_judge_one_another():
    # Each pair of images is alike and of one group, and both have the same wrong label.
    features, labels = blobs(200, 4)
    features[1::2], labels[1::2] = features[::2], labels[::2]
    groups = np.arange(200) // 2
    wrong = np.arange(0, 200, 20)
    given = labels.copy()
    for row in wrong:
        given[row : row + 2] = (labels[row] + 1) % 4
    judged = {*wrong.tolist(), *(wrong + 1).tolist()}
    found = [{s.row for s in wrong_labels.find(features, given, 4, g)} for g in (groups, None)]
    assert len(found[1] & judged) < len(found[0] & judged)
    assert len(found[0] & judged) >= 12
    place = wrong_labels.folds.assigned(given, 5, 0, groups)
    assert (place[::2] == place[1::2]).all()


def test_each_of_several_labels_may_be_wrong():
    random = np.random.default_rng(0)
    labels = (random.random((300, 3)) < 0.4).astype(np.uint8)
    noise = random.normal(0, 0.3, (300, 16))
    features = (labels @ random.normal(0, 2, (3, 16)) + noise).astype(np.float32)
    given = labels.copy()
    given[:10, 1] ^= 1
    found = {s.row: s for s in wrong_labels.find(features, given, 3)}
    hits = {*range(10)} & {*found}
    assert len(hits) >= 8
    assert len(found) <= 12
    for row in hits:
        assert found[row].suggested == tuple(np.flatnonzero(labels[row]).tolist())


@pytest.mark.parametrize("block", [1, 2**25])
def test_near_duplicates_of_all_and_of_other_splits(block: int, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (50, 32))
    features[10] = features[3] + random.normal(0, 0.02, 32)
    features[20] = features[3] + random.normal(0, 0.05, 32)
    features[41] = features[40]
    splits = np.where(np.arange(50) == 20, "test", "train")
    units = neighbours.directions(features.astype(np.float32))
    done: list[int] = []
    pairs = neighbours.near_duplicates(units, splits, done.append)
    # The test image has its nearest in train, and so have the others among themselves.
    assert {(p.row, p.other) for p in pairs} == {(3, 10), (3, 20), (10, 20), (40, 41)}
    assert (pairs[0].row, pairs[0].other) == (40, 41)
    assert pairs[0].score == pytest.approx(1, abs=1e-6)
    assert sum(done) == 50


def test_outliers_are_far_from_their_own_class():
    features, labels = blobs(200, 4)
    features[12] = -4 * features[12]
    # A class on its own that is spread more has no outliers for that.
    features[labels == 3] += np.random.default_rng(2).normal(0, 1, (50, 16))
    found = neighbours.outliers(neighbours.directions(features), labels)
    assert [outlier.row for outlier in found] == [12]
    assert found[0].score > 1.5
    few = labels[:16]
    assert neighbours.outliers(neighbours.directions(features[:16]), few) == []


def test_a_spreadsheet_runs_no_cell():
    names = ["=1+1.jpg", "+2.jpg", "-3.jpg", "@x.jpg", "a,b.jpg", 'q".jpg', "plain.jpg"]
    rows = [Finding(n, "train", "=cmd()", WRONG, "@b", 0.5, "", True) for n in names]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [row["file"].removeprefix("'") for row in read] == names
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in read for cell in row.values())


def test_sheets_number_findings_as_the_rows_of_the_table():
    kinds = [WRONG] * 40 + [NEAR] * 20 + [OUTLIER] * 3
    rows = [
        Finding(f"{number}.jpg", "train", "a", kind, "", 1.0, "", False)
        for number, kind in enumerate(kinds)
    ]
    lines = as_csv(rows).splitlines()
    pages = {kind: sheets.pages_of(rows, kind) for kind in KINDS}
    assert [[len(page) for page in pages[kind]] for kind in KINDS] == [[30, 10], [15, 5], [3], []]
    found = [item for kind in KINDS for page in pages[kind] for item in page]
    assert [finding for _, finding in found] == rows
    assert all(lines[row - 1].startswith(f"{finding.file},") for row, finding in found)
