"""Proof: one input through the source's library and through Flax."""
