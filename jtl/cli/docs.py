"""`jtl docs`: the pages of the documentation, in a terminal."""

from __future__ import annotations

import dataclasses
import sys
import sysconfig
from pathlib import Path
from typing import Annotated

from jtl.common.errors import UserError, suggest
from jtl.config import walk


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the pages of the documentation, or shows some.

    For example:
      jtl docs
      jtl docs freezing

    Attributes:
        pages: Names of pages. Default: list them.
    """

    pages: Annotated[tuple[str, ...], walk.Metavar("PAGE")] = walk.positional(())


def command(options: Options) -> None:
    """Prints the list, or pages as they were written.

    Raises:
        UserError: There is no such page.
    """
    known = {path.stem: path for path in sorted(_folder().glob("*.md")) if path.stem != "index"}
    names = [page.removeprefix("docs/").removesuffix(".md") for page in options.pages]
    for name in names:
        if name not in known:
            raise UserError(
                f"there is no page '{name}'.{suggest(name, known)} jtl docs lists the pages."
            )
    if not names:
        for name, path in known.items():
            print(f"{name:<20}{_title(path)}")
    for name in names:
        sys.stdout.write(known[name].read_text(encoding="utf-8"))


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return next(lines, "").lstrip("# ").strip()


def _folder() -> Path:
    """The folder of the pages: in a checkout, or where pip has put them.

    Raises:
        UserError: Neither is there.
    """
    checkout = Path(__file__).parents[2] / "docs"
    installed = Path(sysconfig.get_path("data"), "share", "doc", "jtl")
    for folder in (checkout, installed):
        if (folder / "freezing.md").is_file():
            return folder
    raise UserError(
        f"the documentation is not installed (neither in '{checkout}' nor in '{installed}'). "
        "pip install --force-reinstall --no-deps jtl puts it there."
    )
