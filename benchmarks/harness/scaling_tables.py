"""The tables of docs/scaling.md, of counts and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from harness import plots, scaling_costs, tables
from harness import scaling_times as times
from harness.quantities import digits, money, seconds, size
from harness.scaling_inputs import TIMM, columns, value
from harness.scaling_times import Cluster, Training
from harness.store import Row

COUNTS = (1_000, 1_000_000, 1_000_000_000)
EPOCHS = {"head_only": 100, "last_stage": 10, "full": 10}
"""The defaults of the masks."""
MOST_IMAGES_EPOCHS = 10
"""Of every mask where images are a billion."""
DEVICES = (1, 64)
CLASSES = (10, 1_000, 10_000, 100_000, 1_000_000)
PARTS = {"object storage": "storage", "host to device": "transfer"}

Costs = dict[tuple[str, str], Row]


def counts(costs: Costs) -> list[str]:
    """What is counted."""
    rows = list(costs.values())
    return tables.table(
        {
            "network": [plots.NAMES[row["model"]] for row in rows],
            "mask": [f"`{row['mask']}`" for row in rows],
            "P, GFLOP": [f"{row['prefix_flops'] / 1e9:.3f}" for row in rows],
            "S, GFLOP": [_flops(row["step_flops"]) for row in rows],
            "W": [f"{row['trainable_params']:,}" for row in rows],
            "optimizer": [size(row["optimizer_bytes"]) for row in rows],
            "A, MB": [f"{row['kept_bytes'] / 1e6:.2f}" for row in rows],
            "L": [row["live_layers"] for row in rows],
            "c, kB": [f"{times.feature_bytes(row) / 1e3:.1f}" for row in rows],
        }
    )


def _flops(count: float) -> str:
    return f"{count / 1e9:.3f}" if count > 1e6 else f"{count / 1e9:.6f}"


def reached(costs: Costs) -> list[str]:
    """What an H100 is taken to reach."""
    full = [costs[model, "full"] for model in scaling_costs.MODELS]
    speeds = [times.rates(row) for row in full]
    peak = value("peak")
    return tables.table(
        {
            "network": [plots.NAMES[row["model"]] for row in full],
            "F, GFLOP": [f"{row['forward_flops'] / 1e9:.2f}" for row in full],
            "RTX 3090, images/s: forward, training": [
                f"{TIMM[row['model']]['infer']:,.0f}, {TIMM[row['model']]['train']:,.0f}"
                for row in full
            ],
            "H100, images/s": [
                f"{_rate(s.forward / row['forward_flops'])}, "
                f"{_rate(s.training / row['step_flops'])}"
                for s, row in zip(speeds, full, strict=True)
            ],
            "share of peak": [f"{s.forward / peak:.1%}, {s.training / peak:.1%}" for s in speeds],
        }
    )


def _rate(number: float) -> str:
    return f"{round(number, -2):,.0f}"


def checks(costs: Costs) -> list[str]:
    """The model beside what was published."""
    full = costs["resnet50", "full"]
    speed = times.rates(full)
    model = speed.training / full["step_flops"]
    scaled = value("a100_torch") * value("h100_by_a100")
    tuned, many = value("mlperf_8") / 8, value("mlperf_64") / 64
    return tables.table(
        {
            "ResNet50, training, images/s for each H100": [
                "this model: RTX 3090 by the rates of memory",
                "PyTorch AMP on an A100, times H100 over A100 in MLPerf",
                "MLPerf, 8 H100, hand-tuned",
                "MLPerf, 64 H100 with 50 images each",
            ],
            "": [f"{round(number, -1):,.0f}" for number in (model, scaled, tuned, many)],
            "beside the model": ["1"]
            + [f"{number / model:.2f}" for number in (scaled, tuned, many)],
        }
    )


def budget(costs: Costs) -> list[str]:
    """Microseconds of an image on one H100, part by part."""
    rows = [costs[model, mask] for model in scaling_costs.MODELS for mask in EPOCHS]
    speeds = [times.rates(costs[row["model"], "full"]) for row in rows]
    each = [
        times.step(row, speed, times.PER_DEVICE) / times.PER_DEVICE
        for row, speed in zip(rows, speeds, strict=True)
    ]
    kept = [times.feature_bytes(row) for row in rows]
    prefix = [row["prefix_flops"] / s.forward for row, s in zip(rows, speeds, strict=True)]
    cores = [
        1 / (value("decode") * (before + after)) for before, after in zip(prefix, each, strict=True)
    ]

    def cell(number: float) -> str:
        return digits(number * 1e6) if number else "-"

    return tables.table(
        {
            "network": [plots.NAMES[row["model"]] for row in rows],
            "mask": [f"`{row['mask']}`" for row in rows],
            "prefix": [cell(number) for number in prefix],
            "step from the cut": [cell(number) for number in each],
            "features from disk": [cell(n / value("disk_read")) for n in kept],
            "from host memory": [cell(n / value("pcie")) for n in kept],
            "cores to decode for it": [digits(number) for number in cores],
        }
    )


def network(costs: Costs) -> list[str]:
    """A step's seconds on the network beside its computing."""
    rows = [costs[model, mask] for model in scaling_costs.MODELS for mask in scaling_costs.MASKS]
    one, many = Cluster(8), Cluster(64)

    def cells(cluster: Cluster, part: Callable[[Row, Cluster], float]) -> list[str]:
        return [seconds(part(row, cluster)) if part(row, cluster) else "-" for row in rows]

    def compute(row: Row) -> float:
        speed = times.rates(costs[row["model"], "full"])
        return times.step(row, speed, times.PER_DEVICE)

    both = [
        [(times.gradients(r, c) + times.statistics(r, c)) / compute(r) for r in rows]
        for c in (one, many)
    ]
    return tables.table(
        {
            "network": [plots.NAMES[row["model"]] for row in rows],
            "mask": [f"`{row['mask']}`" for row in rows],
            "step from the cut": [seconds(compute(row)) for row in rows],
            "gradients": [size(4 * row["trainable_params"]) for row in rows],
            "8: gradients": cells(one, times.gradients),
            "8: statistics": cells(one, times.statistics),
            "64: gradients": cells(many, times.gradients),
            "64: statistics": cells(many, times.statistics),
            "8: rows of features": cells(one, _rows),
            "64: rows of features": cells(many, _rows),
            "gradients and statistics over the step: 8, 64": [
                f"{a:.0%}, {b:.0%}" for a, b in zip(*both, strict=True)
            ],
        }
    )


def _rows(row: Row, cluster: Cluster) -> float:
    return times.moved_rows(row, cluster) if times.feature_bytes(row) else 0.0


def _training(costs: Costs, model: str, mask: str, images: int, devices: int) -> Training:
    speed = times.rates(costs[model, "full"])
    return Training(costs[model, mask], speed, images, Cluster(devices))


def _epochs(mask: str, images: int) -> int:
    return MOST_IMAGES_EPOCHS if images == COUNTS[-1] else EPOCHS[mask]


def scenarios(
    costs: Costs,
    model: str,
    images: Sequence[int],
    masks: Sequence[str] = tuple(EPOCHS),
    *,
    by_host: bool = False,
) -> list[str]:
    """Hours, memory and money."""
    chosen = [
        (mask, _epochs(mask, n), _training(costs, model, mask, n, devices))
        for n in images
        for mask in masks
        for devices in DEVICES
    ]
    cold = [t.uncached(epochs) for _, epochs, t in chosen]
    warm = [t.cached(epochs) for _, epochs, t in chosen]

    def bound(t: Training) -> str:
        first = t.from_images(True).bottleneck
        parts = [first, t.from_images(False).bottleneck]
        if t.tier not in ("", "no room"):
            parts = [t.extraction().bottleneck, t.from_features().bottleneck]
        return ", then ".join(dict.fromkeys(PARTS.get(part, part) for part in parts))

    columns: dict[str, Sequence[object]] = {
        "images": [f"{t.images:,}" for _, _, t in chosen],
        "mask": [f"`{mask}`" for mask, _, _ in chosen],
        "epochs": [epochs for _, epochs, _ in chosen],
        "H100": [t.cluster.devices for _, _, t in chosen],
        "without cache": [seconds(number) for number in cold],
        "with it, cold": [
            seconds(number) if number else t.tier or "-"
            for number, (_, _, t) in zip(warm, chosen, strict=True)
        ],
        "a warm epoch": [
            seconds(t.from_features().seconds) if number else "-"
            for number, (_, _, t) in zip(warm, chosen, strict=True)
        ],
        "features": [
            f"{size(t.images * times.feature_bytes(t.row))}"
            + (f" ({t.tier})" if t.tier not in ("", "no room") else "")
            for _, _, t in chosen
        ],
        "each device": [size(t.device_bytes) for _, _, t in chosen],
        "dollars": [
            money(t.dollars(number or other))
            for number, other, (_, _, t) in zip(warm, cold, chosen, strict=True)
        ],
        "bound by": [bound(t) for _, _, t in chosen],
    }
    if by_host:
        local = [dataclasses.replace(t, by_host=True) for _, _, t in chosen]
        columns["cold, by host"] = [
            seconds(there.cached(epochs) or 0) if there.tier != t.tier else "-"
            for there, (_, epochs, t) in zip(local, chosen, strict=True)
        ]
    return tables.table(columns)


def resnet(costs: Costs) -> list[str]:
    """ResNet50, all numbers of images."""
    return scenarios(costs, "resnet50", COUNTS)


def others(costs: Costs) -> list[str]:
    """The other two networks, with masks that have features."""
    lines: list[str] = []
    for model in scaling_costs.MODELS[1:]:
        head, rule, *rows = scenarios(
            costs, model, COUNTS[1:], ("head_only", "last_stage"), by_host=True
        )
        named = [f"| {plots.NAMES[model]} {row}" for row in rows]
        lines += named if lines else [f"| network {head}", f"|---{rule}", *named]
    return lines


def storage(costs: Costs) -> list[str]:
    """Bytes of the images themselves."""
    jpegs = [n * value("jpeg") for n in COUNTS]
    return tables.table(
        {
            "images": [f"{n:,}" for n in COUNTS],
            "as JPEG": [size(nbytes) for nbytes in jpegs],
            "decoded, 224 pixels": [size(n * times.IMAGE) for n in COUNTS],
            "object storage, a month": [f"${digits(n * value('storage'))}" for n in jpegs],
            "asking for each by itself, an epoch": [
                f"${digits(n * value('request'))}" for n in COUNTS
            ],
        }
    )


def heads(costs: Costs) -> list[str]:
    """A linear head on ResNet50's features, on every device or divided by classes."""
    many = Cluster(64)
    width = costs["resnet50", "head_only"]["feature_values"]
    params = [(width + 1) * classes for classes in CLASSES]
    batch = times.PER_DEVICE * many.devices
    # The features for every device's classes; the largest logit; the sum of the exponentials.
    divided = many.gather(batch * width * times.FEATURE_BYTES) + 2 * many.reduce(4 * batch)
    return tables.table(
        {
            "classes": [f"{classes:,}" for classes in CLASSES],
            "params": [f"{count:,}" for count in params],
            "params, gradients, Adam": [size(16 * count) for count in params],
            "divided by 64": [size(16 * count / many.devices) for count in params],
            "all-reduce of gradients": [seconds(many.reduce(4 * count)) for count in params],
            "divided: features and sums": [seconds(divided)] * len(params),
        }
    )


def crossings(costs: Costs) -> list[str]:
    """Where one place, or one way, gives over to the next."""
    rows = [
        costs[model, mask]
        for model in scaling_costs.MODELS
        for mask in ("head_only", "last_stage", "last_stages:2")
    ]
    kept = [times.feature_bytes(row) for row in rows]
    speeds = [times.rates(costs[row["model"], "full"]) for row in rows]
    share = value("share")
    without = [
        max(
            row["prefix_flops"] / speed.forward,
            1 / Cluster(1).decoded(),
            value("jpeg") / value("object_read"),
        )
        for row, speed in zip(rows, speeds, strict=True)
    ]

    def millions(nbytes: float) -> list[str]:
        return [digits(nbytes / n / 1e6) for n in kept]

    return tables.table(
        {
            "network": [plots.NAMES[row["model"]] for row in rows],
            "mask": [f"`{row['mask']}`" for row in rows],
            "an image's features over its JPEG": [f"{n / value('jpeg'):.2f}" for n in kept],
            "device memory to": millions(value("budget") * value("memory")),
            "host memory to": millions(share * value("host_memory")),
            "disk to": millions(value("disk")),
            "reading pays above, images decoded": [
                f"{size(n / t)}/s" for n, t in zip(kept, without, strict=True)
            ],
            "images in memory": [
                f"{size(n * s.forward / row['prefix_flops'])}/s"
                for n, s, row in zip(kept, speeds, rows, strict=True)
            ],
        }
    )


TABLES: dict[str, Callable[[Costs], list[str]]] = {
    "counts": counts,
    "reached": reached,
    "checks": checks,
    "budget": budget,
    "network": network,
    "resnet50": resnet,
    "others": others,
    "crossings": crossings,
    "storage": storage,
    "heads": heads,
    "figures": lambda costs: tables.table(columns()),
}
