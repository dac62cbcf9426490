"""Switches: each word and its number, declared once."""
