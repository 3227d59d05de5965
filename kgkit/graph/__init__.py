"""The graph on disk: quads (the truth), store and views (derived)."""
