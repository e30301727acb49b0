"""Quantize: annotate what, calibrate how far, realize as integers."""
