"""Checkpoints of a run: what they hold, how they are saved and read again."""
