"""The commands of `python -m weights_convert` and `jtl weights`, by name."""

COMMANDS = {
    "convert": "weights_convert.cli.convert",
    "list": "weights_convert.cli.listing",
    "inspect": "weights_convert.cli.inspection",
    "export": "weights_convert.cli.export",
}
DEFAULT = "convert"
"""What runs where the first word names no command."""
