"""Scoring a run's best model: `python -m jtl.evaluate`."""
