"""The commands of `python -m weights_convert`: their options, and what they print."""
