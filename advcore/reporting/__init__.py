"""Tables, charts and pages from the records of runs, and from nothing else."""
