"""From a source's tensors to a Flax param tree, by rules and tables."""
