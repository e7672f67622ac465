"""Scoring a run's best model: `jtl evaluate`."""
