"""Training: `jtl train`, and `jtl.fit` from Python."""
