"""What a training step keeps in memory: formulas, a meter and a GPU-free estimator."""
