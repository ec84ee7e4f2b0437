"""Records, and what is made from them and from nothing else."""
