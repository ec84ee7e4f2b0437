"""Writes what leaves a run: a model, coresets and pages for people without advcore."""
