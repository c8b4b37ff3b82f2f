"""Pretrained models, loaded in the precision that the method trains them in."""
