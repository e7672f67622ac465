"""Using a run's best model: `python -m jtl.predict`, and `jtl.load` from Python."""
