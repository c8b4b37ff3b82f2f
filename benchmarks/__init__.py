"""Benchmarks of the library beside PEFT: run them as modules, `python -m benchmarks.layer`."""
