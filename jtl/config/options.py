"""Every option of a training run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jtl.common.errors import UserError
from jtl.config.augment import PRESETS, Augment, Preset, color_jitter
from jtl.config.limits import within
from jtl.config.training import TOLD, StepsConfig, TrainConfig
from jtl.data.verification import OnBadImage
from jtl.models.heads import LARGEST_WIDTH, HeadSpec, PoolKind, check_layers, mlp
from jtl.runs.trackers import SinkName


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network and where its weights come from.

    Attributes:
        model: Backbone: resnet18, resnet34, resnet50, resnet101, resnet152, wide_resnet50_2,
            wide_resnet101_2, resnext50_32x4d, resnext101_32x8d, densenet121, densenet161,
            densenet169, densenet201, vgg11, vgg13, vgg16, vgg19, vgg11_bn, vgg13_bn, vgg16_bn,
            vgg19_bn, alexnet, squeezenet1_0, squeezenet1_1, inception_v3, mobilenet_v2,
            efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2.
        weights: Where the backbone's weights come from: 'default' (the model's ImageNet
            weights), 'timm:NAME' (a name of the timm hub, such as timm:resnet50.tv_in1k), an
            installed package as 'package:NAME', 'torchvision:NAME' (what PyTorch's cache holds,
            such as torchvision:alexnet), a checkpoint file (.safetensors, .pth, .h5),
            a folder that weights_convert wrote, or 'random'.
        head: What is put on the features: 'linear' (one dense layer), 'mlp' (hidden layers
            first, see --head-widths), 'append' (a dense layer on the logits of the weights'
            own classifier, which stays), 'conv' (a dense layer and ReLU on each pixel, pooled
            then, as in SqueezeNet), or a list such as bn,dense:256,dropout:.2 of what comes
            before the last dense layer; see docs/freezing.md.
        head_widths: Widths of the hidden layers of --head mlp, such as 1024,512.
        head_dropout: Dropout rate after each hidden layer of --head mlp.
        head_batch_norm: Batch normalization in each hidden layer of --head mlp.
        head_pool: How the last feature map becomes a vector: average or maximum over the
            pixels, or all values one after the other.
        aux_head: Trains InceptionV3's auxiliary head beside the head, as torchvision does: it
            hangs after stage 2, adds 0.4 of its own loss, and is no part of the results.
        truncate_at: Use the backbone only up to this stage, unit or layer, such as
            stage3/block1/conv3; names of Keras and torchvision are understood. Default: all
            of it.
        dtype: Number format of the computation; params and batch statistics stay float32.
    """

    model: str = "efficientnet_lite0"
    weights: str = "default"
    head: str = "linear"
    head_widths: tuple[int, ...] = (512,)
    head_dropout: float = 0.0
    head_batch_norm: bool = False
    head_pool: PoolKind = "avg"
    aux_head: bool = False
    truncate_at: Annotated[str | None, TOLD] = None
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The labelled images.

    Attributes:
        data: The images: 'folder:PATH' (a folder, zip or tar with a folder for each class, in
            train/ and val/, or without them to be split), 'tfds:NAME[:SPLITS]' (a prepared data
            set of TensorFlow Datasets), 'npz:FILE' (NumPy arrays), 'parquet:FILES' (as of
            Hugging Face) or 'digits' (of scikit-learn); see docs/data.md.
        on_bad_image: What is done about images that cannot be read: error lists them and
            trains nothing; skip leaves them out, and the summary says so.
        image_size: Height and width of the network's input in pixels. Default: that of the
            weights; for images that are all smaller, four times theirs, but 96 at least.
        upsample: How small images are enlarged: bilinear, bicubic, or nearest:N, which
            repeats each pixel N times both ways. Default: as the weights' preprocessing.
        cache_dtype: Number format that the frozen part's outputs are kept in: that in which they
            are computed, or another; bfloat16 halves the size of float32.
        cache_views: With augmentation, keeps the frozen part's outputs for this many random draws
            of each training image, which the epochs see in turn. Default: another draw in every
            epoch, and nothing kept.
        split_seed: Decides the validation split where the data have none. Default: --seed.
    """

    data: str = "digits"
    on_bad_image: OnBadImage = "error"
    image_size: Annotated[int | None, TOLD] = None
    upsample: Annotated[str | None, TOLD] = None
    cache_dtype: Literal["computed", "float32", "bfloat16"] = "computed"
    cache_views: Annotated[int | None, TOLD] = None
    split_seed: Annotated[int | None, TOLD] = None


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training images; see docs/augmentation.md.

    Attributes:
        augment: What is changed: none; light (random crops, and a horizontal flip); strong (also
            TrivialAugment, erasing, mixup and cutmix). The flags below change single parts of it.
        crop_scale: Random resized crops keep at least this share of an image's area; 1 for no
            crops.
        flip: Mirrors half of the images, horizontally or both ways. Leave it out where left
            and right mean something, as in text.
        color_jitter: Strength of random changes of brightness, contrast and saturation, for
            example 0.4; or four strengths, such as 0.4,0.4,0.4,0.1, the last for hue.
        policy: trivial changes each image by one random operation of TrivialAugment.
        erasing: Probability that a rectangle of an image is blotted out.
        mixup: Mixes pairs of images and their labels; the Beta distribution's parameter, such
            as 0.2.
        cutmix: Pastes a part of another image and its label; the Beta distribution's parameter,
            such as 1.
    """

    augment: Preset = "none"
    crop_scale: Annotated[float | None, TOLD] = None
    flip: Literal["preset", "none", "horizontal", "both"] = "preset"
    color_jitter: Annotated[str | None, TOLD] = None
    policy: Literal["preset", "none", "trivial"] = "preset"
    erasing: Annotated[float | None, TOLD] = None
    mixup: Annotated[float | None, TOLD] = None
    cutmix: Annotated[float | None, TOLD] = None

    def options(self) -> Augment:
        """The preset with what is given beside it.

        Raises:
            UserError: A value is impossible; the message names the flag.
        """
        given = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if value not in (None, "preset")
        }
        preset = PRESETS[given.pop("augment")]
        if "color_jitter" in given:
            given["color_jitter"] = color_jitter(given["color_jitter"])
        return dataclasses.replace(preset, **given)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where results go, and what may be taken for them.

    Attributes:
        run_dir: Folder for everything the run writes. Default: a new one in runs/.
        resume: Go on with the run in --run-dir where its last checkpoint left it.
        cache_budget: Memory that the frozen part's outputs may take, such as 4GB or 500MB; more
            is read from disk, batch by batch. 0 computes them anew in every step. Default: 40 %
            of the free memory.
        dry_run: Say what would be trained and what it costs, and train nothing.
        seeds: Train with so many seeds, from --seed on, on one validation split, and report the
            median and spread of the results.
        find_lr: Train no model, but try ever higher learning rates for some steps; draws the losses
            in lr_finder.png and suggests a value for --lr.
        show_batch: A .png file for an image of the first training batch, as the network sees it.
        log_to: Where the figures of every epoch go besides metrics.jsonl: tensorboard (event files
            in the run's folder), wandb (Weights & Biases) or mlflow; several with commas. Default:
            nowhere else.
        profile: Trace some steps of each phase into the run's folder, profile/, to look at in
            Perfetto or TensorBoard (see docs/training.md).
        json: Print the summary as JSON on stdout instead of a table.
        coordinator: HOST:PORT of the first of several processes that train together; the first one
            opens the port. Slurm, Open MPI, Kubernetes and Cloud TPU tell it by themselves, as the
            next two; see docs/devices.md.
        num_processes: How many processes there are.
        process_id: Which of them this is, from 0 on.
        config: A YAML file with options, a line NAME: VALUE for each (see docs/training.md), or the
            config.json of a run to train as it did. The command line comes before it.
    """

    run_dir: Annotated[Path | None, TOLD] = None
    resume: bool = False
    cache_budget: Annotated[str | None, TOLD] = None
    dry_run: bool = False
    seeds: int = 1
    find_lr: bool = False
    show_batch: Annotated[Path | None, TOLD] = None
    log_to: Annotated[tuple[SinkName, ...], TOLD] = ()
    profile: bool = False
    json: bool = False
    coordinator: Annotated[str | None, TOLD] = None
    num_processes: Annotated[int | None, TOLD] = None
    process_id: Annotated[int | None, TOLD] = None
    config: Annotated[Path | None, TOLD] = None
    # Names of the options that a command line gives, no option itself.
    given: Annotated[tuple[str, ...], tyro.conf.Suppress] = dataclasses.field(
        default=(), compare=False, metadata={"flag": False}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains an image classifier from pretrained weights.

    Without options: EfficientNet-Lite0 with its ImageNet weights, frozen, and a new linear
    head, on scikit-learn's handwritten digits. A table of results goes to stdout, progress
    to stderr, everything else to the run's folder.

    For example:
      python -m jtl.train --mask=head_only
      python -m jtl.train --data folder:my-images --run-dir runs/mine
      python -m jtl.train --data folder:my-images --mask=last_stage --dry-run

    my-images holds train/CLASS/*.jpg and, if you like, val/ and test/.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
    augment: AugmentConfig = AugmentConfig()
    steps: StepsConfig = StepsConfig()

    @property
    def split_seed(self) -> int:
        """What decides the validation split."""
        return self.train.seed if self.data.split_seed is None else self.data.split_seed

    def head(self, source_classes: int | None = None) -> HeadSpec:
        """The head's specification.

        Args:
            source_classes: Classes of the weights' own classifier, None without one.

        Raises:
            UserError: The head's options are not possible, or 'append' finds no classifier.
        """
        options = self.model
        layers: tuple[str, ...] = ()
        if options.head == "mlp":
            if not options.head_widths:
                raise UserError("--head-widths needs at least one width, such as 1024,512.")
            for width in options.head_widths:
                within("--head-widths", width, 1, LARGEST_WIDTH)
            if not 0 <= options.head_dropout < 1:
                raise UserError(
                    f"--head-dropout must be at least 0 and below 1, not {options.head_dropout}."
                )
            layers = mlp(options.head_widths, options.head_dropout, options.head_batch_norm)
        elif options.head == "conv":
            if options.head_pool == "flatten":
                raise UserError(
                    "--head conv pools its logits: --head-pool avg or max, not flatten."
                )
        elif options.head not in ("linear", "append"):
            layers = tuple(part.strip() for part in options.head.split(","))
        check_layers(layers)
        kept = 0
        if options.head == "append":
            if source_classes is None:
                raise UserError(
                    "--head append keeps the weights' own classifier, but these have none. "
                    "Choose other --weights, or --head linear."
                )
            kept = source_classes
        return HeadSpec(layers, options.head_pool, kept, relu_logits=options.head == "conv")

    def noting(self, given: tuple[str, ...]) -> Config:
        """The same, knowing the names of the options that were given, also as by default."""
        return dataclasses.replace(self, run=dataclasses.replace(self.run, given=given))

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON can hold them, by group."""
        groups = dataclasses.asdict(self)
        groups["run"] = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in groups["run"].items()
            if key != "given"
        }
        return groups

    @classmethod
    def from_dict(cls, groups: dict[str, Any]) -> Config:
        """The inverse of `to_dict`."""

        def tuples(group: dict[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in group.items()}

        paths = ("run_dir", "show_batch")
        run: dict[str, Any] = {
            key: Path(value) if key in paths and value is not None else value
            for key, value in groups["run"].items()
        }
        run["log_to"] = tuple(run.get("log_to", ()))
        return cls(
            ModelConfig(**tuples(groups["model"])),
            DataConfig(**groups["data"]),
            TrainConfig(**groups["train"]),
            RunConfig(**run),
            # Runs of before have none.
            AugmentConfig(**groups.get("augment", {})),
            StepsConfig(**tuples(groups.get("steps", {"warmup": 0.0}))),
        )
