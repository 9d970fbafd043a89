"""Measures AudioMDB against floors. `python -m benchmarks` runs it; README.md explains it."""
