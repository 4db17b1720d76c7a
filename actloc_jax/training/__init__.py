"""State, optimizers, checkpoints, sharding, logging and progress of a run."""
