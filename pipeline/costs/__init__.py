"""What a plan's runs will cost: steps, FLOPs, memory, time and downloads."""
