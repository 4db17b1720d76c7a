"""Pure array functions: segments, matching, diffusion, smoothing."""
