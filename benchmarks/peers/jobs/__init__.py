"""What is measured. Each job runs in a process of its own, see `benchmarks.peers.child`."""
