"""Training steps on a real GPU, with random weights: memory and time beside the estimates."""
