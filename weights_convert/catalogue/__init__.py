"""What can be converted, and how fast it runs here."""
