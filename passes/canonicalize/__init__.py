"""One spelling per meaning."""
