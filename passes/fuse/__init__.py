"""Fewer, larger kernels."""
