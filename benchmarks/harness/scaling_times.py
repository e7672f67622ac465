"""The cost model of docs/scaling.md: seconds, bytes and dollars from counts and figures."""

from __future__ import annotations

import dataclasses
import math

from harness.scaling_inputs import TIMM, value
from harness.store import Row

DEVICES_PER_HOST = 8
PER_DEVICE = 256
"""Images of a step on one device, where there are enough images for it."""
DEFAULT_BATCH = 32
KERNELS, HEAD_KERNELS = 10, 20
"""Kernels of a step for each normalized layer, both directions and the update; of a head."""
STEP_REDUCTIONS = 2
"""All-reduces of every step: gradients and loss; the number of hits, which is an integer."""
NORM_REDUCTIONS = 3
"""All-reduces of a layer with the global batch's statistics: mean, variance, gradients."""
IMAGE = 224 * 224 * 3
"""Bytes of a decoded image."""
FEATURE_BYTES = 2
"""Of a number in bfloat16."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """What an H100 reaches on a network, in operations a second.

    It is what timm measured on an RTX 3090 times the ratio of memory rates: at these sizes the
    networks are bound by memory, not by products.
    """

    forward: float
    training: float


def rates(full: Row) -> Rates:
    """Of the network whose counts under `full` are given."""
    faster = value("bandwidth") / value("reference")
    measured = TIMM[full["model"]]
    return Rates(
        full["forward_flops"] * measured["infer"] * faster,
        full["step_flops"] * measured["train"] * faster,
    )


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Some H100s, eight to a host."""

    devices: int

    @property
    def one_host(self) -> bool:
        """Whether all are in one."""
        return self.devices <= DEVICES_PER_HOST

    @property
    def latency(self) -> float:
        """Seconds of an all-reduce of a few bytes."""
        if self.devices == 1:
            return 0.0
        return value("latency_host" if self.one_host else "latency_hosts")

    def reduce(self, nbytes: float) -> float:
        """Seconds of an all-reduce over all devices."""
        if self.devices == 1:
            return 0.0
        bus = value("bus_host" if self.one_host else "bus_hosts")
        return self.latency + 2 * (self.devices - 1) / self.devices * nbytes / bus

    def gather(self, nbytes: float) -> float:
        """Seconds until every device has all of an array, of which each has a part."""
        if self.devices == 1:
            return 0.0
        bus = value("bus_host" if self.one_host else "bus_hosts")
        return self.latency + (self.devices - 1) / self.devices * nbytes / bus

    def decoded(self) -> float:
        """Images decoded in a second on the cores of one device."""
        return value("cores") * value("decode")


def gradients(row: Row, cluster: Cluster) -> float:
    """Seconds of a step's all-reduces of float32 gradients, loss and hits."""
    return cluster.reduce(gradient_bytes(row)) + (STEP_REDUCTIONS - 1) * cluster.latency


def gradient_bytes(row: Row) -> int:
    """That every device contributes to a step's sum, and has of it."""
    return 4 * row["trainable_params"]


def statistics(row: Row, cluster: Cluster) -> float:
    """Seconds of a step's all-reduces for the statistics of the global batch."""
    return NORM_REDUCTIONS * row["live_layers"] * cluster.latency


def feature_bytes(row: Row) -> int:
    """Of an image at the cut; 0 where there is no frozen prefix."""
    return FEATURE_BYTES * row["feature_values"]


def moved_rows(row: Row, cluster: Cluster, per_device: float = PER_DEVICE) -> float:
    """Seconds of bringing a batch's features from the devices that have them."""
    return moved(feature_bytes(row), cluster, per_device)


def moved(each: float, cluster: Cluster, per_device: float = PER_DEVICE) -> float:
    """Seconds of bringing a batch's rows, of `each` bytes, from the devices that have them.

    Each device looks up those of the batch's rows that it has; the sum over all is the batch.
    """
    return cluster.reduce(per_device * cluster.devices * each)


def step(row: Row, speed: Rates, images: float) -> float:
    """Seconds of a step from the cut on one device, without network."""
    launches = value("launch") * (KERNELS * row["layers"] + HEAD_KERNELS)
    reading = images * feature_bytes(row) / value("bandwidth")
    return max(images * row["step_flops"] / speed.training, reading, launches)


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass over all images.

    Attributes:
        parts: Seconds of what runs at the same time, by name: the longest one decides.
        network: Seconds that come on top.
    """

    parts: dict[str, float]
    network: float = 0.0

    @property
    def bottleneck(self) -> str:
        """The part that takes longest; `network` where that is more than half of the rest."""
        longest = max(self.parts, key=lambda name: self.parts[name])
        return "network" if self.network > self.parts[longest] / 2 else longest

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return max(self.parts.values()) + self.network


@dataclasses.dataclass(frozen=True)
class Training:
    """A mask trained on some images by some devices.

    Attributes:
        row: Its counts.
        speed: Of the network.
        images: How many.
        cluster: What they are trained on.
        by_host: Whether every host keeps features of its share of the images on its disk and
            shuffles within it, which jtl does not do.
    """

    row: Row
    speed: Rates
    images: int
    cluster: Cluster
    by_host: bool = False

    @property
    def used(self) -> Cluster:
        """The devices that have work: no more than a batch has images."""
        if self.images >= 10 * PER_DEVICE * self.cluster.devices:
            return self.cluster
        return Cluster(min(self.cluster.devices, DEFAULT_BATCH))

    @property
    def per_device(self) -> float:
        """Images of a step on each."""
        many = self.used == self.cluster and self.images >= 10 * PER_DEVICE * self.used.devices
        return PER_DEVICE if many else DEFAULT_BATCH / self.used.devices

    @property
    def steps(self) -> float:
        """Of an epoch."""
        return self.images / (self.per_device * self.used.devices)

    @property
    def share(self) -> float:
        """Images for each device."""
        return self.images / self.used.devices

    @property
    def tier(self) -> str:
        """Where the features lie; empty where there are none, `no room` where nothing takes them.

        Read from disk, they are in the host's memory once they have been, as far as they fit.
        Over many hosts they lie in device memory or nowhere: a batch wants rows of all.
        """
        each = self.share * feature_bytes(self.row)
        if not each:
            return ""
        if each <= value("budget") * value("memory"):
            return "device"
        if not (self.used.one_host or self.by_host):
            return "no room"
        if each <= value("share") * value("host_memory"):
            return "host"
        return "disk" if each <= value("disk") else "no room"

    @property
    def held(self) -> bool:
        """Whether all decoded images stay in memory: over many hosts, in that of the devices."""
        in_host = self.share * IMAGE <= value("share") * value("host_memory")
        return self.divided or (in_host and self.used.one_host)

    @property
    def divided(self) -> bool:
        """Whether they are divided among several devices, which have them in their own memory."""
        fits = self.share * IMAGE <= value("image_share") * value("memory")
        return fits and self.used.devices > 1

    @property
    def network(self) -> float:
        """Seconds of an epoch."""
        return self.steps * (gradients(self.row, self.used) + statistics(self.row, self.used))

    def _reading(self) -> dict[str, float]:
        return {
            "object storage": self.share * value("jpeg") / value("object_read"),
            "decoding": self.share / self.used.decoded(),
        }

    @property
    def _prefix(self) -> float:
        return self.share * self.row["prefix_flops"] / self.speed.forward

    @property
    def _steps(self) -> float:
        return self.steps * step(self.row, self.speed, self.per_device)

    def from_images(self, first: bool) -> Pass:
        """An epoch that runs every layer, such as all of `--cache-budget 0`."""
        parts = {"computing": self._prefix + self._steps}
        network = self.network
        if self.divided:
            network += self.steps * moved(IMAGE, self.used, self.per_device)
        if first or not self.divided:
            parts["host to device"] = self.share * IMAGE / value("pcie")
        if first or not self.held:
            parts |= self._reading()
        return Pass(parts, network)

    def extraction(self) -> Pass:
        """Computing the features, once."""
        written = self.share * feature_bytes(self.row) / value("disk_write")
        return Pass({**self._reading(), "computing": self._prefix, "writing features": written})

    def from_features(self) -> Pass:
        """An epoch from the cut."""
        rate = {"device": math.inf, "host": value("pcie"), "disk": value("disk_read")}[self.tier]
        reading = self.share * feature_bytes(self.row) / rate
        moved = moved_rows(self.row, self.used, self.per_device) if self.tier == "device" else 0.0
        network = self.network + self.steps * moved
        return Pass({"computing": self._steps, "reading features": reading}, network)

    def uncached(self, epochs: int) -> float:
        """Seconds without the cache."""
        later = (epochs - 1) * self.from_images(False).seconds
        return value("start") + self.from_images(True).seconds + later

    def cached(self, epochs: int) -> float | None:
        """Seconds with an empty cache to begin with; None where there is nothing to keep."""
        if self.tier in ("", "no room"):
            return None
        features = self.extraction().seconds
        return value("start") + features + epochs * self.from_features().seconds

    def dollars(self, seconds: float) -> tuple[float, float]:
        """The least and the most, for all devices."""
        hours = seconds / 3600 * self.cluster.devices
        return hours * value("price_low"), hours * value("price_high")

    @property
    def device_bytes(self) -> float:
        """Of each device: params, gradients, optimizer, what the backward pass needs, examples."""
        row = self.row
        variables = 4 * (row["total_params"] + row["trainable_params"]) + row["optimizer_bytes"]
        kept = row["kept_bytes"] * self.per_device
        each = feature_bytes(row) if self.tier == "device" else 0
        if self.tier in ("", "no room") and self.divided:
            each = IMAGE
        return variables + kept + self.share * each
