"""Readers of raw knowledge: one file per format."""
