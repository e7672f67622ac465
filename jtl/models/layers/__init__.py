"""The layers that backbones are made of, and how they lower by platform."""
