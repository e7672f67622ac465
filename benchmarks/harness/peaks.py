"""What accelerators can do at best, as their makers publish it.

TFLOP/s of dense matrix products (without sparsity) in bfloat16, and in what float32 is computed in
by default: TF32 on NVIDIA's tensor cores where they have it, else float32; on TPUs products of
float32 are taken in bfloat16. A JAX device is a core on TPU v2 and v3, of which a chip has two.
"""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Peak:
    """A device's published rates.

    Attributes:
        kind: Pattern of `jax.Device.device_kind`, matched from its beginning.
        bfloat16: TFLOP/s; None where the device has no such units.
        float32: TFLOP/s.
        source: Who publishes them.
    """

    kind: str
    bfloat16: float | None
    float32: float
    source: str

    def of(self, dtype: str) -> float | None:
        """TFLOP/s of a number format."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


_TPU = "Google Cloud TPU documentation, system architecture"
_AMPERE = "NVIDIA Ampere GA102 GPU architecture whitepaper"

PEAKS = (
    Peak("NVIDIA B200", 2250.0, 1125.0, "NVIDIA HGX B200 datasheet"),
    Peak("NVIDIA H200", 989.5, 494.5, "NVIDIA H200 datasheet"),
    Peak("NVIDIA GH200", 989.5, 494.5, "NVIDIA GH200 datasheet"),
    Peak("NVIDIA H100 PCIe", 756.5, 378.0, "NVIDIA H100 datasheet"),
    Peak("NVIDIA H100 NVL", 835.5, 417.5, "NVIDIA H100 datasheet"),
    Peak("NVIDIA H100 80GB HBM3", 989.4, 494.7, "NVIDIA H100 architecture whitepaper"),
    Peak(r"(NVIDIA )?A100", 312.0, 156.0, "NVIDIA A100 datasheet"),
    Peak("NVIDIA A30", 165.0, 82.0, "NVIDIA A30 datasheet"),
    Peak("NVIDIA A40", 149.7, 74.8, "NVIDIA A40 datasheet"),
    Peak(r"NVIDIA A10$", 125.0, 62.5, "NVIDIA A10 datasheet"),
    Peak("NVIDIA L40S", 362.05, 183.0, "NVIDIA L40S datasheet"),
    Peak(r"NVIDIA L40$", 181.05, 90.5, "NVIDIA L40 datasheet"),
    Peak(r"NVIDIA L4$", 121.0, 60.0, "NVIDIA L4 datasheet"),
    Peak(r"NVIDIA GeForce RTX 4090$", 165.2, 82.6, "NVIDIA Ada GPU architecture whitepaper"),
    Peak(r"NVIDIA GeForce RTX 3090$", 71.0, 35.6, _AMPERE),
    Peak(r"(NVIDIA )?(Tesla )?V100-SXM2", None, 15.7, "NVIDIA V100 datasheet"),
    Peak(r"(NVIDIA )?(Tesla )?T4$", None, 8.1, "NVIDIA T4 datasheet"),
    Peak(r"TPU v6 lite", 918.0, 918.0, _TPU),
    Peak(r"TPU v5 lite", 197.0, 197.0, _TPU),
    Peak(r"TPU v5p?$", 459.0, 459.0, _TPU),
    Peak(r"TPU v4$", 275.0, 275.0, _TPU),
    Peak(r"TPU v3$", 61.5, 61.5, _TPU),
    Peak(r"TPU v2$", 22.5, 22.5, _TPU),
)


def peak_of(kind: str) -> Peak | None:
    """The published rates of a device kind; None for one that is not in the table."""
    return next((peak for peak in PEAKS if re.match(peak.kind, kind)), None)
