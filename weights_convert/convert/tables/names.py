"""Names that several families share."""


def keras_block(stage: str, block: str) -> str:
    """The unit of a block that Keras calls `conv3_block1`."""
    return f"stage{int(stage) - 1}/block{block}"
