"""One run on many GPUs: the frozen weights are shared among its processes, what trains is copied (paper §3.2)."""
