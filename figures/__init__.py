"""Figures and the report, drawn from the stored results alone."""
