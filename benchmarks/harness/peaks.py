"""What accelerators can do at best, as their makers publish it.

TFLOP/s of dense matrix products in bfloat16, and in what float32 is computed in by default: TF32 on
NVIDIA's tensor cores where they have it, else float32; on TPUs products of float32 are taken in
bfloat16. Where a data sheet has them with sparsity alone, they are halved here. A JAX device is a
core on TPU v2 and v3, of which a chip has two. A device is in the table only if its own maker's
figures were found: parts of a GPU (MIG) and near relatives are other devices.
"""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Peak:
    """A device's published rates.

    Attributes:
        kind: Pattern of all of `jax.Device.device_kind`.
        bfloat16: TFLOP/s; None where the device has no such units.
        float32: TFLOP/s.
        source: The document that has them.
    """

    kind: str
    bfloat16: float | None
    float32: float
    source: str

    def of(self, dtype: str) -> float | None:
        """TFLOP/s of a number format."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet, half of those with sparsity"
_ADA = "NVIDIA Ada GPU Architecture whitepaper"
_TPU = "Google Cloud documentation, {}, peak compute per chip"

PEAKS = (
    Peak("NVIDIA B200", 2250.0, 1100.0, "NVIDIA Blackwell Architecture Technical Brief, HGX B200"),
    Peak("NVIDIA H200", 989.5, 494.5, "NVIDIA H200 datasheet, half of those with sparsity"),
    Peak("NVIDIA H100 PCIe", 756.5, 378.0, _HOPPER),
    Peak("NVIDIA H100 NVL", 835.5, 417.5, _HOPPER),
    Peak("NVIDIA H100 80GB HBM3", 989.4, 494.7, "NVIDIA H100 Tensor Core GPU whitepaper"),
    Peak(r"(NVIDIA )?A100(-SXM4|-PCIE)?[- ]\d+GB( PCIe)?", 312.0, 156.0, "NVIDIA A100 datasheet"),
    Peak("NVIDIA A40", 149.7, 74.8, "NVIDIA A40 datasheet"),
    Peak("NVIDIA A10", 125.0, 62.5, "NVIDIA A10 datasheet"),
    Peak("NVIDIA L40S", 362.05, 183.0, "NVIDIA L40S datasheet"),
    Peak("NVIDIA L40", 181.05, 90.5, "NVIDIA L40 datasheet"),
    Peak("NVIDIA L4", 121.0, 60.0, "NVIDIA L4 datasheet, half of those with sparsity"),
    Peak("NVIDIA GeForce RTX 4090", 165.2, 82.6, _ADA),
    Peak("NVIDIA GeForce RTX 3090", 71.0, 35.6, "NVIDIA Ampere GA102 GPU Architecture whitepaper"),
    Peak(r"(NVIDIA )?(Tesla )?V100-SXM2-\d+GB", None, 15.7, "NVIDIA V100 datasheet"),
    Peak("(NVIDIA )?(Tesla )?T4", None, 8.1, "NVIDIA T4 datasheet"),
    Peak("TPU v6 lite", 918.0, 918.0, _TPU.format("TPU v6e")),
    Peak("TPU v5 lite", 197.0, 197.0, _TPU.format("TPU v5e")),
    Peak("TPU v5p?", 459.0, 459.0, _TPU.format("TPU v5p")),
    Peak("TPU v4", 275.0, 275.0, _TPU.format("TPU v4")),
    Peak("TPU v3", 61.5, 61.5, _TPU.format("TPU v3") + ", of two cores"),
    Peak("TPU v2", 22.5, 22.5, "Wang et al., arXiv 1907.10701: 45 to a chip of two cores"),
)


def peak_of(kind: str) -> Peak | None:
    """The published rates of a device kind; None for one that is not in the table."""
    return next((peak for peak in PEAKS if re.fullmatch(peak.kind, kind)), None)
