"""One table per (library, family); see `weights_convert.convert.rules.Table`."""

from weights_convert.convert.tables import (
    alexnet,
    densenet,
    efficientnet_lite,
    inception,
    mobilenet,
    resnet,
    squeezenet,
    transformers,
    vgg,
)

# Raise this when a table or a rule changes what a source becomes, or what is kept of it: converted
# weights that are cached under an older number are then converted again.
TABLES_VERSION = 5

TABLES = (
    *resnet.TABLES,
    *transformers.TABLES,
    *densenet.TABLES,
    *mobilenet.TABLES,
    *efficientnet_lite.TABLES,
    *vgg.TABLES,
    *alexnet.TABLES,
    *squeezenet.TABLES,
    *inception.TABLES,
)

__all__ = ["TABLES", "TABLES_VERSION"]
