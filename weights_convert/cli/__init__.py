"""The commands of `jtl weights`: their options, and what they print."""
