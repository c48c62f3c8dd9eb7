"""Experiments on the theory: conjugates, biconjugates, relaxed Bayes, Theorems 1 and 2."""
