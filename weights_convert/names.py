"""Other libraries' layer names, understood wherever jtl takes a path."""

from __future__ import annotations

import os.path

from jtl import models
from weights_convert.rules import leaf_paths
from weights_convert.tables import TABLES


def translate(name: str, model: str) -> str:
    """The path in jtl's param tree that another library calls `name`.

    Args:
        name: A layer (`layer4.0.conv1`, `conv3_block1_3_conv`), or the common beginning of
            several (`layer4`, `conv3_block1`, Keras's `conv3_block1_out`).
        model: A name of `jtl.models.names()`.

    Returns:
        The layer's path (`stage2/block1/conv3`), or the path that all layers of that beginning
        share; `name` itself where no library knows it, or where it is a path already.
    """
    entry = models.get(model)
    shapes = models.variable_shapes(models.create(model))
    modules = sorted({"/".join(path[1:-1]) for path in leaf_paths(shapes)})
    if any(module == name or module.startswith(name + "/") for module in modules):
        return name
    for table in TABLES:
        if table.family != entry.family:
            continue
        called = {table.module_name(m, models.create(model).backbone): m for m in modules}
        if name in called:
            return called[name]
        beginning = name.removesuffix("_out")
        below = [m for n, m in called.items() if n.startswith((beginning + ".", beginning + "_"))]
        if below:
            return os.path.commonpath(below)
    return name
