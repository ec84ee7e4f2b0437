"""Reads run files: YAML, names, overrides, and every problem with them at once."""
