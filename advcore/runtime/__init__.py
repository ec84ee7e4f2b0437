"""The layer between methods and machine: devices, precision, memory, threads, signals, temporary model modes."""
