"""Data sets of films and reports, brought into one layout."""
