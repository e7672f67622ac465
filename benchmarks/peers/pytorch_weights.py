"""Writes a checkpoint of timm or torchvision with random weights, from which both sides start.

python benchmarks/peers/pytorch_weights.py MODEL FILE.safetensors
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file

from peers.pytorch_model import network

if __name__ == "__main__":
    torch.manual_seed(0)
    save_file(network(sys.argv[1]).state_dict(), sys.argv[2])
