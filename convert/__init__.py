"""Published PyTorch checkpoints to actloc_jax checkpoints, without PyTorch."""
