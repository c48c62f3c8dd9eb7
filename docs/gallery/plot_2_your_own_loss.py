r"""
The theorems on a loss of your own
==================================

A loss comes in as a formula, or as two functions with what a proof needs to know of them.
"""

# %%
# In short
# --------
# The Cauchy loss :math:`\log(1 + (\theta - 1)^2)`, robust and not convex. Gradient, Hessian and the bounds that proofs
# need are derived from the formula.

import fenchel

loss = fenchel.losses.from_expression("log(1 + (x - 1)**2)", variables=["x"])
print(fenchel.verify_theorem1(loss).explanation)
print(fenchel.verify_theorem2(loss, rho=0.3, delta=0.5).explanation)

# %%
# What the answers mean
# ---------------------
# A verdict's ``holds`` is True, False or None (the certificate cannot decide); ``explanation`` is a sentence and
# ``measured`` holds every number. Theorem 1 holds. Theorem 2, read as a statement about *minimizers*, meets an
# exception: this SAM minimizer is a kink, between two perturbations that are equally bad, and no stationary pair
# stands there. What the paper's proof gives, that stationary pairs map both ways, is another of the numbers:

verdict = fenchel.verify_theorem2(loss, rho=0.3, delta=0.5)
print("holds:", verdict.holds)
print("a kink:", verdict.measured["kink"])
print("stationary pairs:", verdict.measured["pairs"], "- they map both ways:", verdict.measured["pairs_map"])

# %%
# The two objectives show it: the minimizer of SAM at :math:`\rho = 0.3` is that of relaxed Bayes at the multiplier's
# :math:`\sigma`, and both have a kink.

import matplotlib.pyplot as plt
import numpy as np

theta = np.linspace(-0.5, 2.5, 121)
sigma = verdict.measured["sigma"]
sam = [fenchel.sam_objective(loss, [t], 0.3, 0.5).value for t in theta]
relaxed = [fenchel.proximal_objective(loss, [t], sigma, verdict.measured["prior"]).value for t in theta]
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
axis.plot(theta, np.array(sam) - min(sam), label="SAM, rho = 0.3")
axis.plot(theta, np.array(relaxed) - min(relaxed), label=f"relaxed Bayes, sigma = {sigma:.3f}")
axis.axvline(verdict.measured["theta"][0], color="k", linestyle=":", label="minimizer of SAM")
axis.set(xlabel="theta", ylabel="objective minus its minimum")
_ = axis.legend(frameon=False)

# %%
# A monotone loss, such as the regularized softplus, has no kink: its minimizer is a pair, and the theorem holds for
# the minimizers themselves.

print(fenchel.verify_theorem2(fenchel.losses.Softplus(), rho=0.3, delta=0.05).explanation)

# %%
# A loss that is no formula
# -------------------------
# Then give functions of its values (n, P) -> (n,) and of its gradients (n, P) -> (n, P), an upper bound of the
# curvature and, if you have one, a quadratic above the loss that grows slowly: it confines the search. These are
# taken on trust once they have been tried at many points. The Cauchy loss is concave in the square, so its tangent
# there, at :math:`(\theta - 1)^2 = 99`, is above it.

own = fenchel.losses.from_function(
    value=lambda t: np.log1p((t[:, 0] - 1.0) ** 2),
    gradient=lambda t: 2.0 * (t - 1.0) / (1.0 + (t - 1.0) ** 2),
    dim=1,
    curvature=2.0,
    majorizer=fenchel.losses.Quadratic([[0.02]], [-0.02], np.log(100.0) - 0.98),
)
q = fenchel.Gaussian([0.5], 0.3)
print(fenchel.biconjugate(own, q).value, fenchel.biconjugate(loss, q).value)
