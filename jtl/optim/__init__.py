"""Optimizers, learning-rate schedules, and L-BFGS for linear heads."""
