"""`jtl publish RUN --to hf:USER/NAME`: a run's best model for others to load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jtl.common.errors import UserError
from jtl.common.output import print_json
from jtl.common.text import for_terminal
from jtl.config import walk

if TYPE_CHECKING:
    from jtl.common.progress import Display


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """What was published.

    Attributes:
        folder: Its files on this machine.
        repo: USER/NAME.
        layout: "timm" if timm can load the weights, else "jtl".
        url: Of the upload; None of a dry run.
    """

    folder: Path
    repo: str
    layout: str
    url: str | None


@dataclasses.dataclass(frozen=True)
class Options:
    """Publishes a run's best model on the Hugging Face hub, with a model card.

    For example:
      jtl publish runs/mine --to hf:me/ants-and-bees --dry-run
      jtl publish runs/mine --to hf:me/ants-and-bees --data-licence cc-by-4.0

    The weights are written under timm's names where timm has the model, so that timm and
    transformers load them, too; jtl.load("hf:USER/NAME") reads them anywhere. Paths of this
    machine and names of image files are not published; class names are. Needs HF_TOKEN, a token
    that may write.

    Attributes:
        run: Folder that `jtl train` or `jtl search` wrote.
        to: hf:USER/NAME, the repository on the hub; a new one is made if there is none.
        out: Folder to write the files to. Default: published/ in the run's folder.
        licence: Licence of the weights, such as apache-2.0. Default: that of the pretrained ones.
        data_licence: Licence of the images, for the model card. Default: not stated.
        private: Make a new repository visible to you alone.
        dry_run: Write the folder and upload nothing.
        json: Print JSON on stdout instead of text.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    to: str = walk.required_flag()
    out: Path | None = None
    licence: str | None = None
    data_licence: str | None = None
    private: bool = False
    dry_run: bool = False
    json: bool = False


def command(options: Options) -> None:
    """Publishes, and prints where."""
    from jtl.common.progress import Display

    done = publish(options, Display())
    if options.json:
        print_json({**dataclasses.asdict(done), "folder": str(done.folder)})
        return
    print(for_terminal(str(done.folder) if done.url is None else done.url))
    print(f'To use it:\n  jtl predict hf:{done.repo} photo.jpg\n  jtl.load("hf:{done.repo}")')


def publish(options: Options, display: Display) -> PublishedModel:
    """Writes the folder, and uploads it unless this is a dry run.

    Raises:
        UserError: The run or the name cannot be used, or the hub refuses or cannot be reached.
    """
    from jtl.predict import published
    from jtl.predict.classifier import load
    from jtl.publish import folder, upload

    if not options.to.startswith(published.PREFIX):
        raise UserError(f"--to '{options.to}' must be hf:USER/NAME, such as hf:me/ants-and-bees.")
    repo = options.to.removeprefix(published.PREFIX)
    published.check_repo(repo, f"--to '{options.to}'")
    if not options.dry_run:
        upload.check_access()
    if published.is_published(options.run):
        raise UserError(f"'{options.run}' is published already. Give the folder of a run.")
    classifier = load(options.run)
    out = classifier.folder / "published" if options.out is None else options.out
    licences = {"licence": options.licence, "data_licence": options.data_licence}
    written = folder.write(classifier, repo, out, **licences)
    if written.without_timm is not None:
        display.message(f"note: timm and transformers cannot load it: {written.without_timm}")
    if options.licence is None and classifier.meta["weights"].get("licence") is None:
        display.message(
            "note: the licence of the weights is not known, so the model card does not state one. "
            "--licence states it."
        )
    display.message(f"Wrote the files to '{out}'")
    url = None
    if not options.dry_run:
        url = upload.upload(out, repo, private=options.private, message="Publish from jtl")
    return PublishedModel(out, repo, written.layout, url)
