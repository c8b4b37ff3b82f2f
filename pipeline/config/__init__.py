"""What a run is: its configuration, its path, and the plan of all runs."""
