"""The paper's claims, in the order of the report."""

from __future__ import annotations

# id -> (where in the paper, the claim)
CLAIMS: dict[str, tuple[str, str]] = {
    "A1": ("Eq. 4, 8", "f** is convex in mu, f** <= f, and no larger closed convex minorant exists"),
    "A2": ("Theorem 1", "the conjugate over mu equals the supremum over theta, for every Gaussian structure and loss"),
    "A3": ("Theorem 1", "some lambda' has f* finite if l is majorized by a quadratic; f* is +inf for l = theta^4"),
    "A4": ("Theorem 1", "coercive l: dom f* lies in Omega; a non-coercive l can have boundary points in dom f*"),
    "A5": ("App. B", "the theorem holds for Bernoulli and Gamma, and fails for a Gaussian of fixed covariance"),
    "A6": ("App. B", "discontinuous l: the semicontinuous relaxation appears"),
    "A7": ("Eq. 9, 16, 17", "the max-loss form of f** equals its definition"),
    "A8": (
        "Fig. 1, 2",
        "f** tends to -l as sigma -> 0; at a high enough sigma wells A and C vanish and the flat B stays",
    ),
    "B1": ("Eq. 11", "relaxed-Bayes is a lower bound on the Bayes objective for every q"),
    "B2": ("Eq. 12, 18", "minimizing over lambda' gives the maximum of relaxed-Bayes over mu, and the stated q*"),
    "B3": ("Theorem 2", "stationary pairs of SAM and of relaxed-Bayes correspond both ways, sigma^2 = rho/|grad|"),
    "B4": ("Theorem 2", "the minimizers themselves coincide: for which losses, and where only stationary points do"),
    "B5": ("Sec. 2.2", "a higher sigma (or rho) prefers flatter regions"),
    "B6": ("Eq. 14", "alpha = 1 is the DC algorithm: relaxed-Bayes never decreases"),
    "C1": ("Fig. 7", "f** in place of f keeps a reasonable approximation to the posterior (sampled and certified f**)"),
    "C2": ("Fig. 3, 5", "SAM is overconfident, SAM + Laplace underconfident, bSAM close to exact Bayes"),
    "C3": ("Fig. 6", "the same on two-moons"),
    "C4": ("App. F.7", "the sum of biconjugates is below the biconjugate of the sum; the gap as m grows"),
    "D1": ("Alg. 1", "bSAM costs what SAM-with-Adam costs; the noise is negligible"),
    "D2": ("Fig. 4, 8", "bSAM is the least sensitive to rho"),
    "D3": ("Tables 1, 2, 6", "bSAM is best or tied in accuracy, NLL, ECE and AUROC"),
    "D4": ("Table 3", "sampling the linearization point helps"),
    "D5": ("Table 4", "more Monte Carlo samples help"),
    "D6": ("Table 5", "larger m helps bSAM and SAM"),
    "D7": ("App. E.3", "the s-update without the factor sqrt(N) works better than with it"),
}

WITHDRAWN: dict[str, str] = {
    "D2": "the runs are an earlier trainer's, the grid held values of rho that do nothing, and a collapsed network "
    "counted",
    "D6": "the runs are an earlier trainer's, and rho was not chosen anew for each m",
    "D7": "the runs are an earlier trainer's, and the variant's learning rate was at the edge of its range",
}
"""Claims whose stored verdicts were not fair tests, and why. A result that says what would have changed its verdict is
of a newer test and stands."""
