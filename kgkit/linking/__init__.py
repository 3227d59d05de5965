"""Report text to mentions: sections, names, certainty, concepts."""
