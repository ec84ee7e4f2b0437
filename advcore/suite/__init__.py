"""Runs the methods of a suite over seeds, with their baselines, and writes the tables."""
