"""Schedules for loop nests that no kernel of ours computes."""
