"""Concept encoders: text and graph towers, objectives, training, the artifact."""
