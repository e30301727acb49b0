"""The search for the fastest artifact that keeps a model's accuracy: see optimize.py."""
