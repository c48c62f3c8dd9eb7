"""SAM (Eq. 1) and relaxed Bayes at a fixed sigma (Eq. 12): inner maxima, minimizers, stationary pairs."""
