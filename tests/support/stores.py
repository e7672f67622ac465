"""Entries for the tests of the feature cache."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jtl.cache.entry import ArraySpec
from jtl.cache.keys import Key
from jtl.cache.store import EntryClaim, FeatureStore

SPEC = ArraySpec((70, 3, 5), "float32")
FACTS = {"model": "tiny", "cut": "head", "data": "digits", "split": "train"}


def key(name: str = "a") -> Key:
    return Key(FACTS, hashlib.sha256(name.encode()).hexdigest())


def values(spec: ArraySpec = SPEC) -> np.ndarray:
    return np.random.default_rng(0).normal(size=spec.shape).astype(spec.numpy)


@contextlib.contextmanager
def claimed(store: FeatureStore, key: Key, spec: ArraySpec = SPEC) -> Iterator[EntryClaim]:
    """A claim that must be had."""
    with store.claim(key, spec) as claim:
        assert claim is not None
        yield claim


def write(store: FeatureStore, key: Key, spec: ArraySpec = SPEC) -> None:
    with claimed(store, key, spec) as claim:
        claim.append(values(spec))
        claim.finish()
        assert claim.alive


def files(store: FeatureStore) -> set[str]:
    """The names of all files and folders in the store."""
    return {path.relative_to(store.folder).as_posix() for path in Path(store.folder).rglob("*")}
