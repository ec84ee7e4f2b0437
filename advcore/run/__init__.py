"""Builds what a run file names, trains it in a folder that can be resumed, and evaluates it."""
