"""Clean and robust accuracy, with what made each number."""
