"""SPOT (arXiv 2207.07059): semi-supervised detection by masks of whole videos, without proposals."""
