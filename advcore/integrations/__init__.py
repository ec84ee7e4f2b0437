"""Adapters to other training loops. Each file imports the package that it is named after; no other does."""
