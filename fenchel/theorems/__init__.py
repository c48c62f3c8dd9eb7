"""Theorems 1 and 2, checked on any loss; the other exponential families of App. B."""
