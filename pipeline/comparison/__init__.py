"""Two methods compared over seeds and examples."""
