"""PyTorch's side of an input pipeline; see peers/jtl_input.py.

`decode` is torchvision's ImageFolder and transforms, in as many worker processes as there are
cores; `gather` indexes a tensor with whole batches, the fastest way that torch.utils.data has.
"""

from __future__ import annotations

from pathlib import Path

from harness import machine, product, workers
from peers.jtl_input import CROP, arguments, in_memory, told


def main(arm: str, batch: int, size: int, images: int, folder: Path) -> None:
    """Serves the passes of an arm."""

    def prepare() -> workers.Prepared:
        import torch
        from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        if arm == "decode":
            bicubic = v2.InterpolationMode.BICUBIC
            resize = v2.Resize(int(size / CROP), interpolation=bicubic, antialias=True)
            transform = v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])
            loader = DataLoader(
                ImageFolder(str(folder / "train"), transform),
                batch_size=batch,
                shuffle=True,
                drop_last=True,
                num_workers=machine.cores(),
                persistent_workers=True,
            )
        else:
            dataset = TensorDataset(torch.from_numpy(in_memory(images, size)))
            sampler = BatchSampler(RandomSampler(dataset), batch, drop_last=True)
            loader = DataLoader(dataset, sampler=sampler, batch_size=None)

        def one_pass() -> int:
            return sum(len(parts[0]) for parts in loader)

        return one_pass, told(one_pass())

    workers.serve(prepare, product.of_torch)


if __name__ == "__main__":
    main(*arguments())
