"""Reads run files (YAML, names, overrides) and reports all problems with them at once."""
