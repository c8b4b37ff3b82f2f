"""Runs in Weights & Biases: `runs` turns a record into one, `live` makes one while a job computes.

Nothing reads W&B: tables and figures are made of the records alone, and what W&B shows is in them, too.
"""
