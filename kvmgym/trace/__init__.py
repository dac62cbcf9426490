"""Rows of a world's trace."""
