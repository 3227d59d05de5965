"""How a concept encoder is measured: held-out facts, names and definitions, and public test sets."""
