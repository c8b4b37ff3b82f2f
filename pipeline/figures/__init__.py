"""Figures: drawn from the same numbers as the tables, as SVG, PDF and PNG with one style."""
