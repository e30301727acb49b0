"""Fewer channels, fewer weights."""
