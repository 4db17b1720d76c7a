"""Segmentation and detection metrics (numpy only)."""
