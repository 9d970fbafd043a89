"""The same work done by AudioMDB, by its peers and by bare loops. `python -m benchmarks.peers`."""
