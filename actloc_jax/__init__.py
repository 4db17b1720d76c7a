"""Five published systems of temporal action segmentation and detection, in JAX."""

__version__ = "0.1.0"
