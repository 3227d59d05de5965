"""Concept encoders: the towers, the relation scorer, and the folder their users read."""
