"""The backbones, a file for each family."""
