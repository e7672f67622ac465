"""Regenerates every table and plot that benchmarks/README.md names, one script after the other.

    python benchmarks/all.py                   # a day on 2 cores; goes on where it was stopped
    python benchmarks/all.py --only freeze_strategies densenet_cifar10
    python benchmarks/all.py --dry-run         # say the commands
    python benchmarks/all.py --smoke           # every script, to see that it works

A script that fails is told at the end, and the others run all the same.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

from harness import datasets, machine
from harness.machine import ROOT

CIFAR10 = "--data folder:../shared/data/cifar10.zip"
COMMANDS = (
    "vs_pytorch --images 0 --training-repeats 1 --repeats 5",
    "vs_keras --images 200 --training-repeats 1 --repeats 3",
    "vs_finetuning --seeds 1",
    "growth --model efficientnet_lite0 --images 500 1000 2000",
    "input_pipeline",
    "scaling",
    "backbones",
    "convert_speed --out benchmarks/results/convert_speed",
    "freeze_strategies --budget 5m --seeds 3",
    "freeze_strategies --data digits --budget 3m",
    f"freeze_strategies {CIFAR10} --name cifar10-5000 --train-per-class 500 --eval-per-class 200 "
    "--budget 10m",
    f"freeze_strategies {CIFAR10} --budget 20m",
    "densenet_cifar10 --weights random --arms frozen",
    "densenet_cifar10 --weights random --arms base --train-images 5000 --val-images 2000 "
    "--epochs 2",
    "densenet_cifar10 --weights random --arms optimized_head --train-images 1000 "
    "--val-images 500 --epochs 2",
    "densenet_cifar10 --model efficientnet_lite0 --arms frozen --cache-dtype bfloat16",
    "densenet_cifar10 --model efficientnet_lite0 --arms base --train-images 10000 "
    "--val-images 2000 --epochs 8",
    "densenet_cifar10 --model efficientnet_lite0 --arms optimized_head --train-images 5000 "
    "--val-images 2000 --epochs 4",
)
"""The scripts with the options that the kept results were made with."""


def commands(only: list[str], smoke: bool) -> list[list[str]]:
    """What is run, as words after `python`.

    Args:
        only: Names of scripts; empty for all.
        smoke: Whether each script only shows that it works.
    """
    listed = [shlex.split(command) for command in COMMANDS]
    chosen = [words for words in listed if not only or words[0] in only]
    if smoke:
        chosen = [[name, "--smoke"] for name in dict.fromkeys(words[0] for words in chosen)]
    return [[f"benchmarks/{name}.py", *options] for name, *options in chosen]


def main() -> None:
    """Runs all; exit code 1 if one fails."""
    names = list(dict.fromkeys(command.split()[0] for command in COMMANDS))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], choices=names, help="these scripts")
    parser.add_argument("--dry-run", action="store_true", help="say the commands, run none")
    parser.add_argument("--smoke", action="store_true", help="with --smoke, each script once")
    options = parser.parse_args()
    cifar10 = datasets.DEFAULT.with_name("cifar10.zip")
    failed = []
    for words in commands(options.only, options.smoke):
        line = shlex.join(["python", *words])
        if not options.smoke and cifar10.name in line and not cifar10.is_file():
            failed.append(f"{line}\n  not run: {cifar10} is not there")
            continue
        print(line, file=sys.stderr, flush=True)
        if options.dry_run:
            continue
        ran = subprocess.run([sys.executable, *words], cwd=ROOT, env=machine.environment())
        if ran.returncode:
            failed.append(f"{line}\n  ended with exit code {ran.returncode}")
    if failed:
        raise SystemExit("\n".join(["These failed:", *failed]))


if __name__ == "__main__":
    main()
