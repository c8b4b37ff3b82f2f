"""Data sets, tokenized for training and evaluation."""
