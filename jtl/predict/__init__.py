"""Using a run's best model: `jtl predict`, and `jtl.load` from Python."""
