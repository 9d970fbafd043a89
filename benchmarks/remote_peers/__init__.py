"""Other libraries that read datasets out of an object store, each in its own environment."""
