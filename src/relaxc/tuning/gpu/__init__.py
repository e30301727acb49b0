"""Tuning of kernels for GPUs: candidates are compiled anywhere, and measured where a GPU is."""
