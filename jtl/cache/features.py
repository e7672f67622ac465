"""A run's features: found in the cache, or computed once and kept there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jtl.cache.entry import ArraySpec, Entry
from jtl.cache.extraction import extract
from jtl.cache.keys import FeatureKeys, Key, SplitView
from jtl.cache.phase_inputs import PhaseInputs
from jtl.cache.placement import CacheEstimate, place_features, place_images
from jtl.cache.store import EntryClaim, FeatureStore
from jtl.common.progress import Display
from jtl.common.trees import ParamTree
from jtl.data.augment import View
from jtl.data.input_plan import InputPlan
from jtl.data.loader import Features, Images, Joined, Views
from jtl.data.sources.registry import Dataset
from jtl.data.splits import Split, SplitSlice
from jtl.distributed import processes
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.models import ImageClassifier

Splits = Mapping[str, Split]
"""By `train`, `val` and `test`."""


class NoRoom(Exception):
    """Features that were to lie on disk have no room there after all."""


@dataclasses.dataclass(eq=False)
class FeatureCache:
    """Features of the splits of one data set, at any cut of one model.

    Attributes:
        dataset: The images.
        model: The classifier.
        inputs: How images become its input.
        name: Of the backbone, for people.
        seed: Of the run, which random views are drawn by.
        budget: As in `--cache-budget`; 0 for no features at all.
        stored: What features are rounded to: `float32`, `bfloat16`, or `computed`.
        store: Where features are kept between runs; None for nowhere.
        sharding: The devices that work with the features, each on its part of them.
        display: Where progress goes.
    """

    dataset: Dataset
    model: ImageClassifier
    inputs: InputPlan
    _: dataclasses.KW_ONLY
    name: str
    seed: int = 0
    budget: str | None = None
    stored: str = "computed"
    store: FeatureStore | None = None
    sharding: DataSharding = SINGLE
    display: Display

    def __post_init__(self) -> None:
        self._keys = FeatureKeys(self.dataset, self.model, self.inputs, self.name, self.stored)
        self._found = self._computed = 0
        self._noted: set[str] = set()
        self._rejected: set[str] = set()  # Cuts whose features had no room on disk after all.
        self._decoded: Images | None = None  # Of train, while its views are computed.

    @property
    def folder(self) -> Path | None:
        """Where features are kept between runs."""
        return None if self.store is None else self.store.folder

    def without_augmentation(self) -> FeatureCache:
        """The features of the same images as they are."""
        if self.inputs.augmentation is None:
            return self
        plain = dataclasses.replace(self.inputs, augmentation=None, views=0)
        return dataclasses.replace(self, inputs=plain)

    @property
    def reused(self) -> bool:
        """Whether there are features, and all of them were in the cache."""
        return self._found > 0 and not self._computed

    def plan(self, cut: str | None, variables: ParamTree, splits: Splits) -> PhaseInputs:
        """Features at the cut if there is a frozen prefix and its outputs have room, else images.

        What `read` will give, but for the examples, which are not looked at.

        Args:
            cut: Path of the unit after the frozen prefix; None if there is none.
            variables: The classifier's, NumPy arrays.
            splits: What is worked on.
        """
        place, inputs = None, self.inputs
        if cut is None and inputs.views and "train" in splits:
            self._note(
                "--cache-views needs frozen layers at the start of the network, and this "
                "mask has none"
            )
        elif cut is not None and inputs.augmentation is not None and not inputs.views:
            self._note(
                "with augmentation the frozen layers can't be cached, so every step runs the "
                "whole network (slower); --cache-views N caches N random versions of each image"
            )
        elif cut is not None and cut not in self._rejected:
            place = self.estimate(cut, variables, splits).place
        if cut is None or place is None:
            return PhaseInputs.of_images(self.model, self.inputs, self.sharding)
        return PhaseInputs.of_features(
            self.model, self.inputs, cut, place, self._keys.rounded, self.sharding
        )

    def estimate(self, cut: str, variables: ParamTree, splits: Splits) -> CacheEstimate:
        """What the features at `cut` need, and where they can lie; says where they cannot."""
        parts = [part for item in splits.items() for part in self._parts(*item)]
        entries = [self._find(cut, variables, part) for part in parts]
        known = next((entry.spec for entry in entries if entry is not None), None)
        row = known.row_bytes if known else self._keys.spec(cut, variables, 1).row_bytes
        needed = row * sum(len(part.split) for part in parts)
        kept = all(entries)
        place, why = place_features(cut, needed, kept, self.budget, self.store)
        if self.sharding.spans_processes and not processes.all_agree(place == "memory"):
            # Each process has its own share on its disk, and a batch needs all of them.
            place, why = None, "the features do not fit in the memory of all processes"
        if why is not None:
            self._note(why)
        return CacheEstimate(needed, place, kept)

    def read(self, cut: str | None, variables: ParamTree, splits: Splits) -> PhaseInputs:
        """Splits as steps and evaluations work on them: features at the cut, or images.

        Args:
            cut: As in `plan`.
            variables: The classifier's, NumPy arrays.
            splits: What to read.
        """
        inputs = self.plan(cut, variables, splits)
        try:
            if inputs.start is not None:
                cached = {name: self._all(inputs, variables, name, splits[name]) for name in splits}
                return dataclasses.replace(inputs, examples=cached)
        except NoRoom:
            self._rejected.add(inputs.start or "")
            self.display.message("so every step runs the frozen layers, too")
        finally:
            self._decoded = None
            self._keys.forget()  # The steps donate the arrays.
        images = {
            name: place_images(
                split, self.inputs, once=False, training=name == "train", sharding=self.sharding
            )
            for name, split in splits.items()
        }
        inputs = PhaseInputs.of_images(self.model, self.inputs, self.sharding)
        return dataclasses.replace(inputs, examples=images)

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.display.message(text)

    def _parts(self, name: str, split: Split) -> list[SplitView]:
        """What is kept of a split; of many processes, of this one's share of it."""
        augmentation, parts = self.inputs.augmentation, self.dataset.parts
        if parts and augmentation is None and not self.sharding.spans_processes:
            # Other folds train on what validates here: their entries have one name.
            if split is self.dataset.train:
                return [SplitView("train", part, None) for part in parts]
            name = "train" if split is self.dataset.val else name
        if self.sharding.spans_processes:
            split = SplitSlice(split, self.sharding.local_rows(len(split)))
        if name != "train" or augmentation is None:
            return [SplitView(name, split, None)]
        numbers = range(1, self.inputs.views + 1)
        return [SplitView(name, split, View(augmentation.options, self.seed, n)) for n in numbers]

    def _all(self, inputs: PhaseInputs, variables: ParamTree, name: str, split: Split) -> Features:
        """The features of all parts of a split; see `_features`."""
        parts, on_disk = self._parts(name, split), inputs.place == "disk"
        each = [self._features(inputs, variables, part) for part in parts]
        if len(parts) > 1 and parts[0].view is None:  # Of several folds.
            if on_disk:
                return Features(Joined(each), split.labels, self.sharding)
            each = [np.concatenate(each)]
        draws = [
            Features(
                values if on_disk else self.sharding.shard_table(values, len(split)),
                split.labels,
                self.sharding,
            )
            for values in each
        ]
        return draws[0] if len(draws) == 1 else Views(draws)

    def _find(self, cut: str, variables: ParamTree, part: SplitView) -> Entry | None:
        return None if self.store is None else self.store.find(self._keys.key(cut, variables, part))

    def _features(self, inputs: PhaseInputs, variables: ParamTree, part: SplitView) -> np.ndarray:
        """Found or computed [N, ...], in memory or mapped from a file.

        Raises:
            NoRoom: They were to lie on disk, and cannot.
        """
        assert inputs.start is not None
        if not len(part.split):  # Of many processes, where there are fewer images.
            return self._keys.spec(inputs.start, variables, 0).empty()
        mapped = inputs.place == "disk"
        key = self._keys.key(inputs.start, variables, part)
        if (kept := self._kept(key, part, mapped)) is not None:
            return kept
        spec = self._keys.spec(inputs.start, variables, len(part.split))
        if self.store is None:
            return self._computed_now(inputs.start, variables, part, spec, None)
        with self.store.claim(key, spec) as claim:
            if claim is not None:
                if not mapped:
                    return self._computed_now(inputs.start, variables, part, spec, claim)
                self._computed_to_disk(inputs.start, variables, part, claim)
        # Now, or by another process in the meantime.
        if (kept := self._kept(key, part, mapped, announce=claim is None)) is not None:
            return kept
        if mapped:
            raise NoRoom
        return self._computed_now(inputs.start, variables, part, spec, None)

    def _kept(
        self, key: Key, part: SplitView, mapped: bool, *, announce: bool = True
    ) -> np.ndarray | None:
        loaded = self.store.load(key, mapped=mapped) if self.store else None
        if loaded is None:
            return None
        entry, values = loaded
        if announce:
            self._found += len(part.split)
            self.display.message(
                f"{part.shown}: {len(part.split):,} images from the cache, "
                f"{entry.seconds:,.1f} s saved"
            )
        return values

    def _computed_now(
        self,
        cut: str,
        variables: ParamTree,
        part: SplitView,
        spec: ArraySpec,
        claim: EntryClaim | None,
    ) -> np.ndarray:
        """Computes features into memory, and into the cache as far as that takes them."""
        values = spec.empty()
        done = 0 if claim is None else claim.rows
        if claim is not None and done:
            values[:done] = claim.written()
        for rows in self._rows(cut, variables, part, done):
            values[done : done + len(rows)] = rows
            done += len(rows)
            if claim is not None:
                claim.append(rows)
        if claim is not None:
            claim.finish()
        return values

    def _computed_to_disk(
        self, cut: str, variables: ParamTree, part: SplitView, claim: EntryClaim
    ) -> None:
        for rows in self._rows(cut, variables, part, claim.rows):
            claim.append(rows)
            if not claim.alive:
                raise NoRoom
        claim.finish()

    def _images(self, part: SplitView) -> Images:
        """Decoded beside the computation; if for several views, once for all where they fit."""
        if part.view is None:
            return place_images(part.split, self.inputs, once=True)
        if self._decoded is None:
            once = self.inputs.views == 1
            self._decoded = place_images(part.split, self.inputs, once=once, training=True)
        return self._decoded

    def _rows(
        self, cut: str, variables: ParamTree, part: SplitView, first: int
    ) -> Iterator[np.ndarray]:
        """Features of the images from `first` on, batch by batch, as they are to be kept."""
        self._computed += len(part.split)
        local = self.sharding.local()
        on_device = local.replicate(variables)
        images = self._images(part)
        with self.display.track(part.shown, len(part.split), "images") as advance:
            if first:
                advance(first, "continued from an earlier run")
            for rows in extract(
                images,
                on_device,
                model=self.model,
                stop=cut,
                prepare=self.inputs.device,
                first=first,
                view=part.view,
                origin=part.split.rows.start if isinstance(part.split, SplitSlice) else 0,
                sharding=local,
            ):
                yield rows if self._keys.rounded is None else rows.astype(self._keys.rounded)
                advance(len(rows))
