"""Flax NNX blocks shared by the networks."""
