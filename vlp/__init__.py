"""vlp: a light vision-language model that answers chest X-ray questions in concepts."""

__version__ = "0.1.0"
