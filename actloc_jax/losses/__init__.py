"""Losses that two or more systems use."""
