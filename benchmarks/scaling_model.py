"""The tables of docs/scaling.md: what images by the thousand and by the billion cost.

    python benchmarks/scaling_model.py             # prints the tables
    python benchmarks/scaling_model.py --write     # and puts them into docs/scaling.md
    python benchmarks/scaling_model.py --count     # counts anew first; some minutes

Operations, numbers and bytes are counted by `python -m jtl.train --dry-run --json` and kept in
results/scaling_costs.json. What is not ours (hardware, prices, rates) is one table in
harness/scaling_inputs.py, each figure with its source; the formulas are in
harness/scaling_times.py.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

from harness import machine, scaling_costs
from harness.scaling_tables import TABLES, Costs

DOCUMENT = machine.ROOT / "docs" / "scaling.md"


def written(document: str, costs: Costs) -> str:
    """The document with its tables made anew.

    Raises:
        SystemExit: It has no place for one of them.
    """
    for name, make in TABLES.items():
        place = re.compile(rf"(<!-- table {name} -->\n)[^<]*(<!-- end -->)")
        if not place.search(document):
            raise SystemExit(f"{DOCUMENT} has no place for the table '{name}'")
        table = "\n".join(["", *make(costs), "", ""])
        document = place.sub(lambda m, table=table: f"{m[1]}{table}{m[2]}", document)
    return document


def count_all() -> None:
    """Counts every mask of every network, and keeps that."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="jtl-bench-") as cache:
        for model in scaling_costs.MODELS:
            for mask in scaling_costs.MASKS:
                print(f"{model}, {mask}", file=sys.stderr, flush=True)
                rows.append(scaling_costs.count(model, mask, Path(cache)))
    content = {
        "command": " ".join(["python", *scaling_costs.command("MODEL", "MASK")]),
        "rows": rows,
    }
    scaling_costs.PATH.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", action="store_true", help="count operations and bytes anew")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    parser.add_argument("--smoke", action="store_true", help="print the tables of the kept counts")
    options = parser.parse_args()
    if options.count and not options.smoke:
        count_all()
    costs = scaling_costs.load()
    for name, make in TABLES.items():
        print("\n".join([f"{name}", "", *make(costs), ""]))
    if options.write and not options.smoke:
        text = written(DOCUMENT.read_text(encoding="utf-8"), costs)
        DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
