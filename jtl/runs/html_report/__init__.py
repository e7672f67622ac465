"""`report.html`: a run in one file that a person would send to a colleague."""
