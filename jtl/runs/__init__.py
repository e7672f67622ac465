"""A run's folder: its checkpoints, history, summary, report, plots and trackers."""
