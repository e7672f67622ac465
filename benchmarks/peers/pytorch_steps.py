"""PyTorch's side of a step: a worker process.

python benchmarks/peers/pytorch_steps.py MODEL ARM BATCH SIZE CLASSES

See peers/jtl_steps.py for the arms.
"""

from __future__ import annotations

import sys

from harness import product, workers
from peers.jtl_steps import random_images, split


def main(name: str, arm: str, batch: int, size: int, classes: int) -> None:
    """Serves the steps of an arm."""

    def prepare() -> workers.Prepared:
        import torch

        from peers.pytorch_model import create, training_mode

        images, labels = random_images(batch, size, classes)
        # A NHWC array seen as NCHW is what PyTorch calls channels_last.
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
        targets = torch.from_numpy(labels).long()
        what, dtype, compiled = split(arm)
        model, frozen = create(name, classes, "full" if what == "forward" else what)
        run = torch.compile(model) if compiled else model
        narrow = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        if what == "forward":
            model.eval()

            def forward() -> None:
                with torch.inference_mode(), narrow:
                    run(inputs)

            return forward, {"optimizer_bytes": 0}
        training_mode(model, frozen)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, 0.01, momentum=0.9)
        loss = torch.nn.CrossEntropyLoss()

        def step() -> None:
            optimizer.zero_grad()
            with narrow:  # The gradients are computed as the values were.
                value = loss(run(inputs), targets)
            value.backward()
            optimizer.step()

        return step, {"optimizer_bytes": 4 * sum(p.numel() for p in trained)}

    workers.serve(prepare, product.of_torch)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
