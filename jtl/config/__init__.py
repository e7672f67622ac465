"""The options of a training run as dataclasses, their defaults and checks, and config files."""
