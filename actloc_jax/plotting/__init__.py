"""Figures (matplotlib only)."""
