"""Recurrent layers as loop nests that say what they compute."""
