r"""
Relaxed against exact Bayes on your own data
============================================

How much does the posterior change when :math:`f` is replaced by :math:`f^{**}`? For a logistic regression with two
parameters the exact posterior is a matter of quadrature, so the answer is a picture.
"""

# %%
# In short
# --------
# Replace ``x`` and ``y`` by your own; labels are 0 and 1.

import numpy as np

import fenchel

rng = np.random.default_rng(0)
x = np.vstack([rng.normal(1.0, 1.0, (20, 2)), rng.normal(-1.0, 1.0, (20, 2))])
y = np.repeat([1, 0], 20)
loss, prior = fenchel.losses.LogisticRegression(x, y), fenchel.Gaussian(np.zeros(2), np.eye(2))
exact = fenchel.exact_posterior(loss, prior)
relaxed = fenchel.minimize_relaxed(loss, prior).posterior
print(f"log evidence {exact.log_evidence:.6f}, estimated error {exact.error:.0e}")
print("standard deviations, exact:  ", np.sqrt(np.diag(exact.cov)))
print("standard deviations, relaxed:", np.sqrt(np.diag(relaxed.cov)))

# %%
# The relaxed posterior is narrower, and more so in some directions: the worst case puts a little of its mass far
# outside of q, and q pays for it. With f in place of f\*\*, which is the usual variational Bayes, nothing of the kind
# happens.

import matplotlib.pyplot as plt

variational = fenchel.bayesian_learning_rule(loss, prior, "exact").posterior
axes = [
    np.linspace(m - 3.5 * s, m + 3.5 * s, 121) for m, s in zip(exact.mean, np.sqrt(np.diag(exact.cov)), strict=True)
]
grid = np.stack(np.meshgrid(*axes, indexing="xy"), axis=-1)


def gaussian_density(q: fenchel.Gaussian) -> np.ndarray:
    """The density of q on the grid."""
    shifted = grid - q.mean
    exponent = -0.5 * np.einsum("abi,ij,abj->ab", shifted, q.precision, shifted)
    return np.exp(exponent) * np.sqrt(np.linalg.det(q.precision)) / (2 * np.pi)


figure, axis = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
axis.contourf(*axes, exact.density(grid), levels=8, cmap="Greys")
for name, q, color in (("variational, f", variational, "C0"), ("relaxed, f**", relaxed, "C3")):
    # The ellipse where the density is exp(-2) of its peak: two standard deviations.
    axis.contour(*axes, gaussian_density(q), levels=[np.exp(-2.0) * gaussian_density(q).max()], colors=color)
    axis.plot([], [], color=color, label=f"{name}: two standard deviations")
axis.set(xlabel="theta 1", ylabel="theta 2", title="exact posterior density in grey")
_ = axis.legend(frameon=False)

# %%
# The three lower bounds on the log evidence, in the order that the paper proves:

bound = {"relaxed": relaxed, "variational": variational}
for name, q in bound.items():
    plain = -fenchel.bayes_objective(loss, q, prior).value
    with_relaxation = -fenchel.relaxed_bayes_objective(loss, q, prior).value
    print(f"{name:12s} Bayes {plain:.4f}, relaxed Bayes {with_relaxation:.4f}, exact {exact.log_evidence:.4f}")
