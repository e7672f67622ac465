"""`--config FILE`: options from a YAML file, as if they stood before those of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError, suggest

FLAG = "--config"
GROUPS = ("model", "data", "train", "augment", "steps")
"""The parts of a run's `config.json` that hold options of a training."""


def expanded(args: Sequence[str], flags: Iterable[str]) -> list[str]:
    """The command line with the options of its `--config FILE` before it, file flag left out.

    What the command line gives as well is not taken from the file.

    Args:
        args: The command line.
        flags: All flags that there are.

    Raises:
        UserError: The file cannot be read, or names what is no option.
    """
    path, rest = _file_of(args)
    if path is None:
        return list(args)
    given = {_plain(arg) for arg in rest if arg.startswith("--")}
    known = set(flags)
    return [
        *(
            token
            for name, value in _options(path, known).items()
            if name not in given
            for token in _tokens(name, value, path, known)
        ),
        *rest,
    ]


def _file_of(args: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that is named last, and the command line without the naming."""
    path, rest, words = None, [], iter(args)
    for word in words:
        flag, tied, value = word.partition("=")
        if flag != FLAG:
            rest.append(word)
            continue
        value = value if tied else next(words, "")
        if not value or value.startswith("--"):
            raise UserError(f"{FLAG} needs a file, such as {FLAG} run.yaml.")
        path = Path(value)
    return path, rest


def names(args: Sequence[str]) -> list[str]:
    """The options that a command line gives, as Python names them."""
    return [_plain(arg).replace("-", "_") for arg in args if arg.startswith("--")]


def _plain(argument: str) -> str:
    name = argument.partition("=")[0].removeprefix("--").replace("_", "-")
    return name.removeprefix("no-")


def _options(path: Path, flags: set[str]) -> dict[str, Any]:
    """The file's options by flag, without dashes before them."""
    content = _read(path)
    if "class_names" in content:  # A run's own `config.json`: what it was told to train, and how.
        content = {group: content[group] for group in GROUPS if group in content}
    options: dict[str, Any] = {}
    for key, value in content.items():
        inner = value.items() if isinstance(value, dict) and key in GROUPS else [(key, value)]
        for name, option in inner:
            flag = str(name).replace("_", "-")
            if f"--{flag}" not in flags or f"--{flag}" in (FLAG, "--help"):
                known = [known.removeprefix("--") for known in flags]
                raise UserError(
                    f"'{path}': there is no option '{name}'.{suggest(flag, known)} The names are "
                    "those of the flags, without dashes before them."
                )
            if flag in options:
                raise UserError(f"'{path}' gives '{name}' twice.")
            options[flag] = option
    return options


def _read(path: Path) -> dict[str, Any]:
    import yaml  # Only who names a file waits for it.

    class Loader(yaml.SafeLoader):
        """Refuses what YAML forbids and PyYAML takes: a name that is there twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for name in names:
                if names.count(name) > 1:
                    raise UserError(f"'{path}' gives '{name}' twice.")
            return super().construct_mapping(node, deep)

    try:
        with path.open(encoding="utf-8") as file:  # Messages name it.
            content = yaml.load(file, Loader)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{FLAG} '{path}': {error.strerror}.") from error
    # A ValueError is of a value that looks like a date or a number and is none.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{FLAG} '{path}' is not YAML: {told}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{FLAG} '{path}' must hold a line NAME: VALUE for each option, such as 'lr: 1e-3'."
        )
    return content


def _tokens(name: str, value: Any, path: Path, flags: set[str]) -> list[str]:
    """An option as the command line has it; null is the default."""
    if value is None:
        return []
    if isinstance(value, bool):
        if f"--no-{name}" not in flags:
            raise UserError(
                f"'{path}': '{name}' is no switch, but YAML takes its value for "
                f"{str(value).lower()}. Words such as yes, no, on and off need quotes there."
            )
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={','.join(map(str, value))}"]
    if isinstance(value, dict):
        raise UserError(f"'{path}': '{name}' must be a value or a list of values.")
    return [f"--{name}={value}"]
