"""`jtl evaluate RUN`: score a run's best model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from jtl.common.files import check_folder
from jtl.common.output import print_json
from jtl.common.text import counted, for_terminal
from jtl.config import walk
from jtl.config.data import ClassLevel, DataConfig, OnBadImage, SplitLists
from jtl.config.run_options import DeviceName, TtaName

if TYPE_CHECKING:
    from jtl.config.options import Config
    from jtl.data.sources.registry import SourceOptions


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures how good a run's best model is: accuracy, loss, macro-F1, calibration, every class.

    For example:
      jtl evaluate runs/mine
      jtl evaluate runs/mine --data new-images --out evaluations/new

    By default it uses the run's own validation images, with the same computation as in training,
    so the results match the run's summary. It then adds confusion.png, reliability.png (does
    confidence match accuracy?), mistakes.png (the most confident mistakes) and mistakes.csv (all
    of them) to the run's folder, and shows the plots in report.md; training does so, too. A run of
    an earlier version also gets report.html. If images have several labels, it measures mAP, F1 and
    exact match, and classes.png takes the place of the first two plots.

    Attributes:
        run: Folder that `jtl train` or `jtl search` wrote.
        data: Evaluate on these images instead, given as for --data of `jtl train`. All their
            classes must be among the run's.
        split: Which images of the data: val, or test. Data without splits are evaluated whole.
        out: Folder for the plots. Default: the run's folder for its own validation images; no plots
            for other images.
        single: Of a search that keeps an ensemble, evaluate the winner alone.
        tta: Test-time augmentation, as for `jtl predict`: flip, crops or flip,crops. The loss is
            that of the average probabilities, and no plots go to the run's folder.
        raw_csv: Write names to mistakes.csv unchanged. By default, names that a spreadsheet would
            read as a formula (starting with =, +, - or @) get an apostrophe in front, and control
            characters are replaced.
        device: Device to compute on: cpu, gpu or tpu. Default: the fastest one that JAX finds.
        json: Print JSON on stdout instead of text.
    """

    HELP_FROM: ClassVar = walk.HelpFrom(DataConfig, default="as in training")
    """The source is read as in training."""

    run: Annotated[Path, walk.Metavar("RUN")]
    data: str | None = None
    split: Literal["val", "test"] = "val"
    classes: ClassLevel | None = None
    split_lists: SplitLists | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None
    label_delimiter: str | None = None
    label_from: str | None = None
    exclude: Annotated[str | None, walk.Metavar("FILE")] = None
    on_bad_image: OnBadImage | None = None
    out: Path | None = None
    single: bool = False
    tta: TtaName | None = None
    raw_csv: bool = False
    device: DeviceName = "auto"
    json: bool = False


def command(options: Options) -> None:
    check_folder("--out", options.out)
    from jtl.distributed import device

    device.use(options.device)
    from jtl.common import fonts
    from jtl.common.progress import Display
    from jtl.evaluate import completion
    from jtl.evaluate.evaluation import evaluate_ensemble, evaluate_run
    from jtl.predict.ensemble import Ensemble, load_all
    from jtl.runs import evaluation_files as outputs
    from jtl.runs import plot_worker
    from jtl.runs import report as report_page
    from jtl.runs.files import HTML_REPORT, SUMMARY, read_json, run_of
    from jtl.runs.metrics_log import fitted_penalty

    display = Display()
    loaded = load_all(options.run, single=options.single).with_tta(options.tta)
    several = isinstance(loaded, Ensemble)
    # The first member has the options of the data that all have in common.
    classifier = loaded.members[0] if several else loaded
    how = options.on_bad_image, options.split, _source_options(options, classifier.config)
    if several:
        found = evaluate_ensemble(loaded, options.data, display, *how)
    else:
        options = dataclasses.replace(options, run=run_of(options.run))
        found = evaluate_run(classifier, options.data, display, *how)
    if options.tta is not None:
        found.scores["tta"] = options.tta
    if options.json:
        print_json(found.scores)
    else:
        _print(found.scores, fitted_penalty(options.run), classifier.class_titles)
    own = options.data is None and options.split == "val" and options.tta is None
    folder = options.out or (options.run if own else None)
    if folder is None:
        return
    written = outputs.write(found, classifier, folder, raw_csv=options.raw_csv)
    if own and folder == options.run and (options.run / SUMMARY).is_file():
        # Earlier runs lack some of these figures.
        summary = read_json(options.run / SUMMARY) | found.scores
        report_page.write(options.run, summary, classifier.config)
        written.append(report_page.PAGE)
        if not several:
            completion.write_steps(classifier, found)
            completion.write_page(classifier, found, summary, plot_worker.draw_now)
            written.append(HTML_REPORT)
    if not {outputs.CONFUSION, outputs.CLASSES} & {*written}:
        display.message(
            f"No {outputs.CONFUSION}: the names of {len(classifier.class_names):,} classes would "
            f"be too small to read ({outputs.TABLE} has every mistake, --json every class)"
        )
    display.message(f"Saved to '{folder}': {', '.join(written)}")
    if (told := fonts.note(classifier.class_names)) is not None:
        display.message(told)


def _source_options(options: Options, config: Config) -> SourceOptions | None:
    """How the source is read, where that was given."""
    from jtl.data.sources.registry import SourceOptions, options_for

    names = [field.name for field in dataclasses.fields(SourceOptions)]
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    if not given:
        return None
    spec = options.data or config.data.data
    return dataclasses.replace(options_for(spec, SourceOptions.of(config.data)), **given)


def _print(scores: dict[str, Any], penalty: float | None, titles: dict[str, str]) -> None:
    from jtl.common.progress import PlainConsole
    from jtl.runs import console_text

    split = scores["split"]
    data = for_terminal(scores["data"])
    count, accuracy = scores["count"], scores[f"{split}_accuracy"]
    images = counted(count, f"{console_text.SPLITS[split]} image")
    if scores["whole"]:
        images = f"all {counted(count, 'image')}"
    chosen = f"best epoch {scores['epoch']}"
    if "members" in scores:
        chosen = f"ensemble of {counted(scores['members'], 'trial')} (--single: the winner alone)"
    if penalty is not None:
        chosen = f"fitted by L-BFGS with L2 penalty {penalty:g}"
    if "tta" in scores:
        chosen += f", average of versions of each image (--tta {scores['tta']})"
    print(f"{data}, {images}, {chosen}")
    calibrated = scores[f"{split}_calibration"]
    if calibrated is None:  # Of several labels.
        mean = scores[f"{split}_map"]  # None where no image has a class.
        print("mAP      " + ("-" if mean is None else f"{mean:.3f}"))
        print(f"micro-F1 {scores[f'{split}_micro_f1']:.3f}")
        print(f"macro-F1 {scores[f'{split}_macro_f1']:.3f}")
        print(f"exact match {console_text.accuracy_of(accuracy, count)}")
        print(f"loss     {scores[f'{split}_loss']:.3f}")
    else:
        print(f"accuracy {console_text.accuracy_of(accuracy, count)}")
        print(f"loss     {scores[f'{split}_loss']:.3f}")
        print(f"macro-F1 {scores[f'{split}_macro_f1']:.3f}")
        confidence = f"mean confidence {calibrated['confidence']:.3f}"
        print(f"{confidence}, {console_text.calibration_error(calibrated)}")
    PlainConsole().print(console_text.class_table(scores[f"{split}_classes"], split, titles=titles))
