"""`--config FILE`: options from a YAML file, as if they stood before those of the command line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError, suggest
from jtl.config import walk
from jtl.config.walk import Option

FLAG = "--config"
AREAS = ("model", "data", "train", "augment", "steps")
"""The parts of a run's `config.json` that hold options of a training."""


def words(path: Path, kind: type, given: Collection[str]) -> list[str]:
    """A file's options as the words of a command line.

    Args:
        path: A YAML file, or the `config.json` of a run.
        kind: Dataclass of the options.
        given: Names of options that the command line gives, which come before the file's.

    Raises:
        UserError: The file cannot be read, or names what is no option.
    """
    return [
        _word(option, value, path)
        for option, value in _options(path, walk.options(kind))
        if option.name not in given and value is not None
    ]


def _options(path: Path, known: Mapping[str, Option]) -> Iterator[tuple[Option, Any]]:
    content = _read(path)
    if "class_names" in content:  # A run's own `config.json`: what it was told to train, and how.
        # The oldest runs knew no augmentation.
        content = {"augment": {"augment": "none"}} | content
        content = {area: content[area] for area in AREAS if area in content}
    seen: set[str] = set()
    for key, value in content.items():
        inner = value.items() if isinstance(value, dict) and key in AREAS else [(key, value)]
        for written, setting in inner:
            name = str(written).replace("-", "_")
            if name not in known or name == FLAG.removeprefix("--"):
                raise UserError(
                    f"'{path}': there is no option '{written}'.{suggest(name, known)} Names are "
                    "those of the command line without the dashes, such as batch_size."
                )
            if name in seen:
                raise UserError(f"'{path}' gives '{written}' twice.")
            seen.add(name)
            yield known[name], setting


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
        message = " ".join(str(error).split())
        raise UserError(f"{FLAG} '{path}' is not YAML: {message}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{FLAG} '{path}' must contain lines NAME: VALUE, such as 'lr: 1e-3'.")
    return content


def _word(option: Option, value: Any, path: Path) -> str:
    """An option as the command line has it."""
    if isinstance(value, bool):
        if option.kind is not bool and option.mark(walk.FlagValue) is None:
            raise UserError(
                f"'{path}': '{option.name}' is not a switch, but YAML reads its value as "
                f"{str(value).lower()}. Put words such as yes, no, on and off in quotes."
            )
        return option.flag if value else option.flag.replace("--", "--no-", 1)
    if isinstance(value, list):
        return f"{option.flag}={','.join(map(str, value))}"
    if isinstance(value, dict):
        raise UserError(f"'{path}': '{option.name}' must be a value or a list of values.")
    return f"{option.flag}={value}"
