"""Loop nests written for this machine's vectors and caches."""
