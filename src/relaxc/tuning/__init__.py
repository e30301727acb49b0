"""relaxc tune: measures kernels on this machine and keeps what it finds."""
