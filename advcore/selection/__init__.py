"""When to select, how to split the problem, and the selection itself."""
