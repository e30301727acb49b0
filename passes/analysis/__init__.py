"""Questions about Relax modules; nothing here rewrites."""
