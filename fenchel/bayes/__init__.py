"""Bayes, relaxed Bayes and exact Bayes: objectives, learning rules, posteriors."""
