"""One module for each system; `benchmarks.peers.registry` says which there are."""
