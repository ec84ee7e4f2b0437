"""Exports a run's model, coresets and pages for use without advcore."""
