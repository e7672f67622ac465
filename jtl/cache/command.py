"""`jtl cache list|clear`: what is kept outside of runs, and its removal."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from jtl.cache.sizes import LIMIT
from jtl.common.errors import UserError
from jtl.common.output import print_json
from jtl.common.paths import cache_dir
from jtl.common.quantities import format_bytes
from jtl.config import checks, walk

if TYPE_CHECKING:
    from jtl.cache.inventory import Inventory, Row


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists or deletes what jtl has cached for later runs: features of frozen layers.

    Stored in $JTL_CACHE (default: your system's cache folder), next to compiled programs and
    converted weights. jtl can recreate everything here.

    For example:
      jtl cache list
      jtl cache clear --older-than 30

    Attributes:
        action: list shows what is cached, clear deletes it.
        keys: Only entries whose key starts with one of these. Default: all.
        older_than: Only entries that have not been used for this many days. Default: all.
        all: Also delete compiled programs, converted weights and everything else.
        json: Print JSON on stdout instead of text.
    """

    action: Annotated[Literal["list", "clear"], walk.Metavar("list|clear")]
    keys: Annotated[tuple[str, ...], walk.Metavar("KEY")] = walk.positional(())
    older_than: Annotated[float, walk.Metavar("DAYS"), checks.at_least(0)] = 0.0
    all: bool = False
    json: bool = False


def command(options: Options) -> None:
    """Lists or removes, and tells the sizes.

    Raises:
        UserError: A key is none, or options contradict each other.
    """
    from jtl.cache.inventory import Inventory

    inventory = Inventory(cache_dir(), lambda text: print(text, file=sys.stderr))
    for key in options.keys:
        if not inventory.rows((key,)):
            raise UserError(f"no key starts with '{key}'. `jtl cache list` lists all keys.")
    if options.all and (options.action == "list" or options.keys or options.older_than):
        raise UserError("--all deletes everything; it goes with clear, without keys and DAYS.")
    rows = inventory.rows(options.keys, options.older_than)
    if options.action == "clear":
        _clear(inventory, rows, options)
    elif options.json:
        listed = [row.to_dict() for row in rows]
        print_json(
            {
                "folder": str(inventory.folder),
                "limit": inventory.store.limit(),
                "bytes": inventory.sizes(),
                "features": listed,
            },
            indent=2,
        )
    else:
        _list(inventory, rows)


def _clear(inventory: Inventory, rows: list[Row], options: Options) -> None:
    freed = inventory.clear(rows)
    if options.all:
        freed += inventory.clear_rest()
    left = {row.held.name for row in inventory.rows()} & {row.held.name for row in rows}
    if options.json:
        removed = [row.held.name for row in rows if row.held.name not in left]
        print_json({"removed": removed, "bytes": freed})
    else:
        count = len(rows) - len(left)
        print(f"Deleted {count} {'entry' if count == 1 else 'entries'}, {format_bytes(freed)}")
    if left:
        raise UserError(
            f"{len(left)} could not be deleted, because a process is writing them or the folder is "
            f"read-only: {', '.join(sorted(left))}"
        )


def _list(inventory: Inventory, rows: list[Row]) -> None:
    for row in rows:
        name, *rest = _lines(row)
        print("\n".join([name, *(f"  {line}" for line in rest)]))
    sizes, limit = inventory.sizes(), inventory.store.limit()
    print(f"folder    {inventory.folder}")
    print(f"features  {format_bytes(sizes['features'])} of at most {format_bytes(limit)} ({LIMIT})")
    print(f"programs  {format_bytes(sizes['programs'])} (compiled)")
    print(f"weights   {format_bytes(sizes['weights'])} (converted)")
    print(f"checks    {format_bytes(sizes['sizes'])} (which images are readable, and their sizes)")
    if sizes["remote"]:
        print(f"copies    {format_bytes(sizes['remote'])} (of data at addresses)")
    if sizes["measured"]:
        print(f"timings   {format_bytes(sizes['measured'])} (how fast this machine is)")


def _lines(row: Row) -> list[str]:
    size = format_bytes(row.held.nbytes)
    times = f"last used {_ago(row.unused)}, computed {_ago(row.age)}"
    if row.entry is None:
        state = "unfinished, the next run continues it" if row.held.partial else "damaged"
        return [row.held.name, f"{size}, {state}, {times}"]
    facts, spec = row.entry.facts, row.entry.spec
    return [
        row.held.name,
        f"{facts['model']} before {facts['cut']}, {facts['split']} of {facts['data']}",
        f"{size}, {spec.shape[0]:,} images, {spec.dtype}, {times}",
    ]


def _ago(seconds: float) -> str:
    """A time for people: `5 minutes ago`."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"
