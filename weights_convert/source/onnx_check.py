"""What an ONNX graph computes between its weights: whether jtl's network does it too.

Keys and shapes of timm's `resnetaa50`, or of a ResNet with another activation, are those of the
plain network; the graph tells them apart.
"""

from __future__ import annotations

from typing import Any

from jtl.common.errors import UserError
from weights_convert.convert import folded
from weights_convert.convert.rules import Table
from weights_convert.printable import listed, shown
from weights_convert.read.onnx_files import ACTIVATIONS, Content
from weights_convert.source import keras_graph


def check(graph: Content, table: Table, backbone: Any, prefix: str) -> None:
    """Makes sure that strides and activations are those of jtl's network.

    Args:
        graph: Of the file.
        table: The names that its weights have.
        backbone: The configuration of jtl's network.
        prefix: What stands before the names.

    Raises:
        UserError: They are others.
    """
    for path, stride in folded.strides(backbone).items():
        try:
            name = table.module_name("/".join(path), backbone)
        except LookupError:
            continue
        seen = graph.strides.get(f"{prefix}{name}.weight", stride)
        if seen != stride:
            raise UserError(
                f"its convolution '{shown(name, 60)}' has stride {seen}, where jtl's network has "
                f"{stride}: it is another network of the same keys, such as one with "
                "anti-aliasing, and its weights would give other results"
            )
    allowed = keras_graph.usual(backbone).activations
    allowed |= {getattr(backbone, "activation", None) or "relu"}
    if others := sorted(op for op in graph.activations if not ACTIVATIONS[op] & allowed):
        raise UserError(
            f"its graph activates by {listed(others)}, where jtl's network has "
            f"{listed(sorted(allowed))}, and its weights would give other results"
        )
