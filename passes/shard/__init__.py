"""Divide one model among several GPUs."""
