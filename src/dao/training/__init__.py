"""Training: one loop, its objective, averages, checkpoints and logs."""
