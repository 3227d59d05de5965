"""Concept search: names by their letters, vectors by FAISS, the two fused, filters; never loads torch."""
