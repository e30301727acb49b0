"""Rewrites of Relax modules."""
