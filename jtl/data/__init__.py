"""Data: where pictures and labels come from, and how they reach the device."""
