"""PyTorch's side of `accelerator.py`: a worker process.

python benchmarks/peers/pytorch_device.py MODEL ARM DTYPE BATCH SIZE CLASSES STEPS PLATFORM COMPILE

In channels_last; bfloat16 by automatic mixed precision, float32 in TF32 where the device has it, as
JAX computes it. PLATFORM is `cuda` or `cpu`. COMPILE is `compile` for `torch.compile`, or `eager`.
MODEL `-` only tells of the device.
"""

from __future__ import annotations

import contextlib
from typing import Any

from harness import product, workers
from peers.jtl_steps import random_images


def device_facts() -> dict[str, Any]:
    """Whether PyTorch sees a GPU, and which; ROCm's are `cuda` to it as well."""
    import torch

    sees = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "kind": torch.cuda.get_device_name() if sees else None,
    }


def main(
    name: str,
    arm: str,
    dtype: str,
    batch: int,
    size: int,
    classes: int,
    count: int,
    platform: str,
    way: str,
) -> None:
    """Serves turns of `count` steps each, which are queued without waiting in between."""

    def peak_bytes() -> int:
        import torch

        # What its allocator has taken, as a user sees it; JAX's takes most of a GPU at the start.
        return torch.cuda.max_memory_allocated() if platform == "cuda" else workers.peak_bytes()

    def prepare() -> workers.Prepared:
        import torch

        from peers.pytorch_model import create, training_mode

        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        images, labels = random_images(batch, size, classes)
        # A NHWC array seen as NCHW is what PyTorch calls channels_last.
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).to(platform)
        targets = torch.from_numpy(labels).long().to(platform)
        model, frozen = create(name, classes, "full" if arm == "forward" else arm)
        model = model.to(platform)
        if arm == "forward":
            model.eval()
        else:
            training_mode(model, frozen)
        network: Any = torch.compile(model) if way == "compile" else model
        half = dtype == "bfloat16"

        def mixed() -> Any:
            if half:
                return torch.autocast(platform, dtype=torch.bfloat16)
            return contextlib.nullcontext()

        def ended() -> None:
            if platform == "cuda":
                torch.cuda.synchronize()

        def forward() -> None:
            with torch.inference_mode(), mixed():
                for _ in range(count):
                    network(inputs)
            ended()

        if arm == "forward":
            return forward, {"optimizer_bytes": 0}
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, 0.01, momentum=0.9)
        loss = torch.nn.CrossEntropyLoss()

        def steps() -> None:
            for _ in range(count):
                optimizer.zero_grad()
                with mixed():
                    value = loss(network(inputs), targets)
                value.backward()
                optimizer.step()
            ended()

        return steps, {"optimizer_bytes": 4 * sum(p.numel() for p in trained)}

    workers.serve(prepare, product.of_torch, peak=peak_bytes)


if __name__ == "__main__":
    workers.start(main, device_facts)
