"""A run's best model in the forms of other libraries: `jtl export`."""
