"""How a concept encoder is made: corpus, objectives, methods, the one training loop, ablation."""
