"""All commands: `jtl COMMAND ...`, and `python -m jtl.COMMAND ...` for each."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jtl.cli import app, parser
from jtl.common import garbage_collection, huge_pages, invocation
from jtl.common.errors import UserError, suggest


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: Where its `Options` and its `command` are, or a dict `COMMANDS` of further
            commands by name, each with its own; imports nothing slow by itself.
        summary: What it does, for the list of commands.
        computes: Whether it computes with JAX for long: then its process is set up for that.
        more: Modules of what its first word may ask for instead, which compute.
    """

    module: str
    summary: str
    computes: bool = False
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)


COMMANDS = {
    "train": Command("jtl.train.command", "train a classifier", computes=True),
    "search": Command(
        "jtl.search.command", "find the best classifier within a time limit", computes=True
    ),
    "predict": Command("jtl.predict.command", "predict the class of images", computes=True),
    "evaluate": Command("jtl.evaluate.command", "measure how good a model is", computes=True),
    "embed": Command("jtl.embed.command", "turn images into features", computes=True),
    "export": Command("jtl.export.command", "write a model for other libraries", computes=True),
    "publish": Command(
        "jtl.publish.command", "put a model on the Hugging Face hub, with a model card"
    ),
    "serve": Command(
        "jtl.serve.command", "a page to try a model on, and an HTTP API", computes=True
    ),
    "compare": Command("jtl.compare.command", "compare runs side by side"),
    "data": Command(
        "jtl.data.command",
        "check your images before training; find wrong labels (data clean)",
        more={"clean": "jtl.cleaning.command"},
    ),
    "cache": Command("jtl.cache.command", "list or delete what jtl has cached"),
    "weights": Command(
        "weights_convert.cli.commands", "convert, list, inspect and export pretrained weights"
    ),
    "docs": Command("jtl.cli.docs", "list the pages of the documentation, or show one"),
}


def run(name: str, args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command in a process of its own, and ends it.

    Args:
        name: A name of `COMMANDS`.
        args: The command line; default that of the process.
    """
    words, prog = list(sys.argv[1:] if args is None else args), invocation.command(name)
    command = COMMANDS[name]
    if words and words[0] in command.more:
        command = Command(command.more[words[0]], "", computes=True)
        prog, words = f"{prog} {words[0]}", words[1:]
    computes = command.computes and not set(parser.HELP).intersection(words)
    if computes:
        huge_pages.restart_with_huge_pages()  # Before the slow imports.
        garbage_collection.pause_until_started()
    app.quiet_libraries()
    module = importlib.import_module(command.module)
    if hasattr(module, "COMMANDS"):
        app.end(run_one_of(module, words, prog))

    def start(options: Any) -> int | None:
        if computes:
            from jtl.cli import program_cache

            program_cache.prepare()
        return module.command(options)

    app.end(app.main(module.Options, start, prog=prog, args=words))


def run_one_of(module: Any, words: Sequence[str], prog: str) -> int:
    """Runs the command of a module's `COMMANDS` that the first word names.

    Args:
        module: Its `COMMANDS` are modules of `Options` and `command` by name, imported when
            needed; `DEFAULT` is what runs without such a word.
        words: The command line.
        prog: What the user typed before it.

    Returns:
        The exit code.
    """
    name, rest = module.DEFAULT, words
    if words and words[0] not in module.COMMANDS and re.fullmatch(r"[a-z]+", words[0]):
        close = suggest(words[0], module.COMMANDS, 0.7)
        if close and not os.path.exists(words[0]):
            return app.guarded(lambda: _refused(f"there is no command '{words[0]}'.{close}"))
    if words and words[0] in module.COMMANDS:
        name, rest = words[0], words[1:]
        prog = f"{prog} {name}"
    chosen = importlib.import_module(module.COMMANDS[name])
    return app.main(chosen.Options, chosen.command, prog=prog, args=rest)


def _refused(message: str) -> NoReturn:
    raise UserError(message)


def main() -> NoReturn:
    words = sys.argv[1:]
    if len(words) > 1 and words[0] == "help" and words[1] in COMMANDS:
        words = [*words[1:], "--help"]
    if words and words[0] in COMMANDS:
        run(words[0], words[1:])
    app.end(app.guarded(lambda: _without_command(words)))


def _without_command(words: Sequence[str]) -> int:
    if words and words[0] in ("--version", "version"):
        from importlib.metadata import version

        print(f"jtl {version('jtl')}")
        return 0
    if words and words[0] not in ("-h", "--help", "help"):
        raise UserError(
            f"there is no command '{words[0]}'.{suggest(words[0], COMMANDS, 0.6)} The commands "
            f"are: {', '.join(COMMANDS)}."
        )
    print(_HELP, file=sys.stdout if words else sys.stderr)
    return 0 if words else 2


_HELP = f"""usage: jtl COMMAND ...

Train an image classifier from your own labelled images (transfer learning in JAX and Flax).

commands, each with its own --help:
{chr(10).join(f"  {name:<10}{command.summary}" for name, command in COMMANDS.items())}

For example:
  jtl train --data my-images --run-dir runs/mine
  jtl evaluate runs/mine
  jtl predict runs/mine photo.jpg

jtl --version prints the version."""
