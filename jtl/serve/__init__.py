"""A run's best model for others to try: a page, an HTTP API and metrics (`jtl serve`)."""
