"""A run's best model in the forms of other libraries: `python -m jtl.export`."""
