"""Folder layouts and annotations to records to batches (numpy only)."""
