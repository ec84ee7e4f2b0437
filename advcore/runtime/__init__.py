"""What lies between the methods and the machine: devices, precision, memory, threads, signals, borrowed models."""
