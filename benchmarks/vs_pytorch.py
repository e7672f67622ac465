"""How fast is jtl compared with PyTorch + timm, in a step and from start to end?

    python benchmarks/vs_pytorch.py                      # all arms; about half an hour
    python benchmarks/vs_pytorch.py --arms forward full --model resnet50
    python benchmarks/vs_pytorch.py --arms forward full --model inception_v3 --size 299
    python benchmarks/vs_pytorch.py --smoke              # to see that it works

Both libraries run in processes of their own, as their users run them (PyTorch with channels_last
and all cores; jtl as its commands start it), on the same cores, the same images, in turn, so
that a ratio holds when the machine's speed drifts. Beside them stands the machine's own limit:
the rate of a float32 matrix product in the same run. Results are written after each arm; called
again, the script goes on with what is missing.

Steps: `forward` is a frozen backbone with its head, in inference mode; `last_stage` and `full`
are training steps with SGD and momentum under jtl's mask of that name, without cached features.
With `_bfloat16` both compute in that format (PyTorch by `torch.autocast`, for processors that have
instructions for it); with `_compiled` after it PyTorch uses `torch.compile` too, which needs a
compiler for C++. These are measured where `--arms` names them.

Trainings, timed from the start of the process to its end: `last_stage_10` and `head_only_10_cold`
train 10 epochs, jtl with an empty cache folder; `head_only_10_warm` is the latter again with
another learning rate; `head_only_1_cold` trains one epoch. `second_start` is the command of
`head_only_10_cold` once more, until its first step has ended; `second_start_full` the same with
mask `full`, on one batch of images.
"""

from __future__ import annotations

from harness.comparison import Comparison, main
from harness.steps import IN_BFLOAT16
from jtl.models import registry

MAIN = ("resnet50", "densenet121", "efficientnet_lite0")
COMPARISON = Comparison(
    script="vs_pytorch",
    peer="pytorch",
    label="PyTorch + timm",
    packages=("torch", "timm"),
    models=MAIN,
    smoke="resnet18",
    others=tuple(name for name in registry.names() if name not in MAIN),
    steps=("forward", "last_stage", "full"),
    more_steps=IN_BFLOAT16,
    trainings=(
        "head_only_1_cold",
        "head_only_10_cold",
        "head_only_10_warm",
        "last_stage_10",
        "second_start",
        "second_start_full",
    ),
    targets={
        "forward": 1.0,
        "full": 1.0,
        "forward_bfloat16": 1.1,
        "last_stage_bfloat16": 1.0,
        "full_bfloat16": 1.0,
        "head_only_1_cold": 0.9,
        "head_only_10_cold": 7.0,
        "head_only_10_warm": 50.0,
        "last_stage_10": 2.0,
    },
    limits={"second_start": 6.0, "second_start_full": 6.0},
    weights=".safetensors",
    conventions="",
    notes=(
        "Operations are XLA's count for jtl's program without padding's zeros; the peer's rate is "
        "that count over its time.",
        "Cold: jtl starts without features, compiled programs and converted weights. Both start "
        "from the same file of random weights in timm's format, which jtl converts in that time.",
        "Warm: the cold run's command with another learning rate and the same cache folder.",
        "`second_start` runs the cold run's command again, until its first step has ended (jtl: "
        "the steps of its first epoch, which are one dispatch); `second_start_full` the same "
        "under mask `full`, on one batch of images and 4 for validation.",
        "PyTorch's script (benchmarks/peers/pytorch_train.py) decodes and normalizes all images "
        "once, keeps no activations of frozen layers and no features; it keeps nothing between "
        "runs, so one run of it is compared with the cold, the warm and the second start.",
    ),
)

if __name__ == "__main__":
    main(COMPARISON, __doc__ or "")
