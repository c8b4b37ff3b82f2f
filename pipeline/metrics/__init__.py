"""Scores, as `evaluate.Metric` subclasses that need no download."""
