"""Columnar views of the graph and their borders to other libraries."""
