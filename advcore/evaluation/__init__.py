"""Clean and robust accuracy, with the settings behind each number."""
