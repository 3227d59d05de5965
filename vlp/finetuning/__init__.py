"""Learning from labels: probes on a frozen model, towers trained through, and their table beside zero-shot."""
