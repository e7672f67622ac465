"""Training: `python -m jtl.train`, and `jtl.fit` from Python."""
