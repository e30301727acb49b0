"""Tuning: what was measured on a machine, and which choices of kernels it speaks for."""
