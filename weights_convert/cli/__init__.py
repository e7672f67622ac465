"""The command line of `python -m weights_convert`."""
