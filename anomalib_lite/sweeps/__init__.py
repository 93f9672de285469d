"""Sweeps in the format of Weights & Biases, without its server: Optuna samples, `train` runs."""
