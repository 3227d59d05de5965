"""kgkit: medical knowledge to RDF, concept vectors and concept search."""

__version__ = "0.1.0"
