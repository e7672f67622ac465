"""One side of a comparison each: a process that takes steps, or one that trains."""
