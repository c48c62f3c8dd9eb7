"""Small real trainings beside exact Bayes (Figs. 3, 5, 6)."""
