"""Everything that docs/scaling.md takes from elsewhere: each figure with where it is from."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that is not ours.

    Attributes:
        what: It is, for people.
        shown: The number with its unit, for people.
        value: In SI units: seconds, bytes, operations, dollars.
        source: Markdown; assumptions say that they are.
    """

    what: str
    shown: str
    value: float
    source: str


_SHEET = "[H100 data sheet](https://www.nvidia.com/en-us/data-center/h100/), SXM"
_TIMM = "https://github.com/huggingface/pytorch-image-models/blob/main/results/benchmark"
_MLPERF = "https://github.com/mlcommons/training_results_v3.0/tree/main/NVIDIA/results/dgxh100"
_P5 = "[EC2 p5.48xlarge](https://aws.amazon.com/ec2/capacityblocks/pricing/)"
_GITHUB = "https://github.com"


def _issue(repository: str, number: int) -> str:
    return f"[{repository}#{number}]({_GITHUB}/{repository}/pull/{number})"


FIGURES: dict[str, Figure] = {
    # The accelerator.
    "peak": Figure(
        "bfloat16 products, dense",
        "989 TFLOP/s",
        989e12,
        f"{_SHEET}: half of its 1,979 with sparsity",
    ),
    "bandwidth": Figure("device memory, rate", "3.35 TB/s", 3.35e12, _SHEET),
    "memory": Figure("device memory", "80 GB", 80e9, _SHEET),
    "pcie": Figure("host to device", "64 GB/s", 64e9, f"{_SHEET}: PCIe 5, one direction"),
    "launch": Figure(
        "launching a kernel",
        "5 µs (4 to 6)",
        5e-6,
        "[measured](https://susun-blog.com/blog/pegainfer-3-cuda-graph)",
    ),
    "reference": Figure(
        "memory rate of the RTX 3090 that timm measured on",
        "936 GB/s",
        936e9,
        "[GA102 white paper](https://www.nvidia.com/content/PDF/"
        "nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf)",
    ),
    # What others reached, to hold the model against.
    "a100_torch": Figure(
        "ResNet50, PyTorch AMP, one A100",
        "2,470 images/s",
        2470,
        f"[NVIDIA]({_GITHUB}/NVIDIA/DeepLearningExamples/tree/master/PyTorch/Classification/"
        "ConvNets/resnet50v1.5)",
    ),
    "h100_by_a100": Figure(
        "H100 over A100, ResNet50, 16 of each",
        "1.85 (14.4 and 7.8 min)",
        14.4 / 7.8,
        "[MLPerf 3.0, Dell](https://silvertonconsulting.com/2023/07/12/"
        "mlperf-results-show-h100-v-a100-and-v-habana-gaudi2-gpus/)",
    ),
    "mlperf_8": Figure(
        "ResNet50, 8 H100, hand-tuned",
        "56,041 images/s",
        56041,
        f"[MLPerf 3.0 log]({_MLPERF}_ngc23.04_mxnet/resnet/result_0.txt)",
    ),
    "mlperf_64": Figure(
        "the same, 64 H100, 50 images each",
        "294,655 images/s",
        294655,
        f"[MLPerf 3.0 log]({_MLPERF}_n8_ngc23.04_mxnet/resnet/result_0.txt)",
    ),
    # The host, by the H100: an eighth of a machine with eight.
    "cores": Figure("processor cores for each H100", "12", 12, f"{_P5}: 192 threads, 8 H100"),
    "host_memory": Figure("host memory for each H100", "256 GiB", 2**38, f"{_P5}: 2,048 GiB"),
    "disk": Figure("NVMe for each H100", "3.84 TB", 3.84e12, f"{_P5}: 8 x 3.84 TB"),
    "disk_read": Figure(
        "reading NVMe, for each H100",
        "2.3 GB/s (to 4.6)",
        2.3e9,
        "measured on AWS drives: "
        + _issue("scylladb/scylla-machine-image", 608).replace("pull", "issues")
        + ", "
        + _issue("scylladb/scylla-machine-image", 796),
    ),
    "disk_write": Figure("writing NVMe, for each H100", "1.0 GB/s (to 3.3)", 1.0e9, "the same two"),
    "object_read": Figure(
        "reading object storage, for each H100",
        "1.56 GB/s",
        12.5e9 / 8,
        "100 Gb/s to a host: "
        + _issue("aws/amazon-s3-plugin-for-pytorch", 13).replace("pull", "issues"),
    ),
    "decode": Figure(
        "decoding and resizing a JPEG, a core",
        "300 images/s (80 to 577)",
        300,
        "assumption: Pillow decodes [577 of ImageNet's](https://arxiv.org/abs/2605.08731) without "
        "resizing; with larger images and encoding again "
        + _issue("rom1504/img2dataset", 127).replace("pull", "issues")
        + " has 80",
    ),
    "jpeg": Figure(
        "a JPEG of ImageNet",
        "113 kB",
        113e3,
        "[150 GB](https://developer.nvidia.com/blog/loading-data-fast-with-dali-and-new-jpeg-"
        "decoder-in-a100/) over 1.33 million",
    ),
    # The network.
    "bus_host": Figure(
        "all-reduce in a host, bus rate",
        "480 GB/s",
        480e9,
        "NCCL's author: " + _issue("NVIDIA/nccl-tests", 212).replace("pull", "issues"),
    ),
    "bus_hosts": Figure(
        "the same over hosts",
        "339 GB/s",
        339e9,
        "16 H100, 4 GB: " + _issue("modal-labs/multinode-training-guide", 7),
    ),
    "latency_host": Figure(
        "all-reduce of a few bytes, 8 H100",
        "13 µs",
        12.9e-6,
        "p5.48xlarge: " + _issue("aws/aws-k8s-tester", 503) + ", taken for one host",
    ),
    "latency_hosts": Figure(
        "the same, 16 H100 on two hosts",
        "69 µs",
        69e-6,
        _issue("aws/aws-k8s-tester", 585) + "; more hosts: at least",
    ),
    # Money.
    "price_low": Figure(
        "an H100 for an hour, low",
        "$1.99",
        1.99,
        "[Mercatus, May 2026](https://www.mercatus-ai.com/blog/cloud-gpu-pricing)",
    ),
    "price_high": Figure(
        "the same, high: AWS on demand",
        "$6.88",
        6.88,
        "[CompuX, early 2026](https://compux.net/docs/guides/gpu-pricing-trends-2026)",
    ),
    "storage": Figure(
        "object storage, a GB for a month",
        "$0.022",
        0.022e-9,
        "[S3 prices](https://aws.amazon.com/s3/pricing/), US East, 50 to 500 TB",
    ),
    "request": Figure(
        "object storage, 1,000 requests to read", "$0.0004", 0.0004e-3, "the same page"
    ),
    # Ours.
    "share": Figure(
        "share of host memory for images and features",
        "0.4",
        0.4,
        "`jtl.cache.sizes.MEMORY_SHARE`",
    ),
    "image_share": Figure(
        "share of device memory for images",
        "0.25",
        0.25,
        "`jtl.cache.arms.DEVICE_SHARE`",
    ),
    "budget": Figure(
        "share of device memory for features",
        "0.85",
        0.85,
        "assumption, with `--cache-budget`; by default 0.4 of one device",
    ),
    "start": Figure(
        "starting and compiling, a process", "60 s", 60, "assumption; kept programs start sooner"
    ),
}

TIMM: dict[str, dict[str, float]] = {
    "resnet50": {"train": 1218.01, "infer": 3676.35},
    "densenet121": {"train": 913.65, "infer": 2936.15},
    "efficientnet_lite0": {"train": 2079.28, "infer": 9415.07},
}
"""Images/s on an RTX 3090, AMP, channels last, 224 pixels."""
TIMM_SOURCE = (
    f"timm's rates of [training]({_TIMM}-train-amp-nhwc-pt112-cu113-rtx3090.csv) and "
    f"[inference]({_TIMM}-infer-amp-nhwc-pt112-cu113-rtx3090.csv), AMP, channels last"
)


def value(name: str) -> float:
    """A figure in SI units."""
    return FIGURES[name].value


def columns() -> dict[str, list[Any]]:
    """All figures as a table."""
    figures = FIGURES.values()
    return {
        "figure": [figure.what for figure in figures],
        "value": [figure.shown for figure in figures],
        "source": [figure.source for figure in figures],
    }
