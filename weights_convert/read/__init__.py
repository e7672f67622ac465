"""Checkpoint files as named NumPy arrays, without the libraries that wrote them."""
