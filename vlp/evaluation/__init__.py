"""How well a model's answers agree with labels it never saw: measured, compared, set out on a page."""
