"""How fast is jtl compared with Keras 3 on its JAX backend, in a step and from start to end?

    python benchmarks/vs_keras.py
    python benchmarks/vs_keras.py --smoke                # to see that it works

As benchmarks/vs_pytorch.py, which see. Keras takes its steps with `predict_on_batch` and
`train_on_batch` and trains with `fit`; its backbones are those of keras.applications, and jtl
builds the same networks (Keras's ResNet50 has its strides in the first 1x1 convolution).

Steps: `forward`, and `head_only` and `full` with SGD and momentum, jtl without cached features.
Training: `head_only_10_cold`, `head_only_10_warm` and `second_start`.
"""

from __future__ import annotations

from harness.comparison import Comparison, main

COMPARISON = Comparison(
    script="vs_keras",
    peer="keras",
    label="Keras 3 on JAX",
    packages=("keras",),
    models=("resnet50", "densenet121"),
    smoke="resnet50",
    steps=("forward", "head_only", "full"),
    trainings=("head_only_10_cold", "head_only_10_warm", "second_start"),
    targets={},
    limits={},
    weights=".weights.h5",
    conventions="keras",
    notes=(
        "Operations are XLA's count for jtl's program without padding's zeros; the peer's rate is "
        "that count over its time.",
        "Cold: jtl starts without features, compiled programs and converted weights. Both start "
        "from the same file of random weights in Keras's format, which jtl converts in that time. "
        "Keras keeps nothing between runs, so one run of it is compared with all three.",
        "`second_start` runs the cold run's command again, until its first step has ended (jtl: "
        "the steps of its first epoch, which are one dispatch).",
    ),
)

if __name__ == "__main__":
    main(COMPARISON, __doc__ or "")
