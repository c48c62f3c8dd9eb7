r"""
f\*\* in five lines
===================

The Bayes objective contains :math:`f(\mu) = \mathbb{E}_q[-\ell(\theta)]`, an expectation; its Fenchel biconjugate
:math:`f^{**}(\mu)` is minus the *worst* expected loss over all distributions with the moments of :math:`q`. That is
where the maximum of sharpness-aware minimization comes from.
"""

# %%
# In short
# --------
# ``r.lower`` and ``r.upper`` are proved: a quadratic above the loss everywhere gives the one, a distribution with the
# moments of q the other.

import fenchel

loss = fenchel.losses.ThreeWells()
q = fenchel.Gaussian([-3.0], 1.0)  # mean and variance
r = fenchel.biconjugate(loss, q)
print(f"f = {-fenchel.expected_loss(loss, q):.6f}, f** in [{r.lower:.9f}, {r.upper:.9f}], certified: {r.certified}")

# %%
# What the bracket rests on
# -------------------------
# ``r.natural`` is the gradient of f\*\*, and the quadratic :math:`t - \langle\lambda', T(\theta)\rangle` with it
# touches the loss at the atoms of the worst-case distribution. Both are in the result.

import matplotlib.pyplot as plt
import numpy as np

theta = np.linspace(-7.0, 7.0, 800)
eta, minus_half_precision = (block.item() for block in r.natural)
majorant = r.info["majorant_offset"] - eta * theta - minus_half_precision * theta**2

figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axis.plot(theta, loss(theta[:, None]), "k", label="loss")
axis.plot(theta, majorant, color="C3", label="quadratic above the loss (lower end of f**)")
axis.scatter(r.atoms[:, 0], loss(r.atoms), s=400 * r.weights, color="C3", alpha=0.6, label="worst case; area: weight")
axis.fill_between(theta, np.exp(-((theta + 3.0) ** 2) / 2), color="C0", alpha=0.25, label="density of q, scaled")
axis.set(xlabel="theta", ylim=(-0.2, 7))
_ = axis.legend(frameon=False)

# %%
# f and f\*\* along the mean
# --------------------------
# At a small standard deviation f\*\* is close to minus the loss; at a large one only the wide well is left.

means = np.linspace(-6.0, 6.0, 121)
figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
for axis, sigma in zip(axes, (0.1, 0.5, 1.5), strict=True):
    relaxed = fenchel.biconjugate_surface(loss, means, [sigma])[:, 0]
    exact = [-fenchel.expected_loss(loss, fenchel.Gaussian([m], sigma**2)) for m in means]
    axis.plot(means, -loss(means[:, None]), "k:", label="minus the loss")
    axis.plot(means, exact, "C0", label="f")
    axis.plot(means, relaxed, "C3", label="f**")
    axis.set(title=f"standard deviation {sigma}", xlabel="mean m")
_ = figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)

# %%
# ``biconjugate`` has other methods: ``"closed-form"`` where the loss has one, ``"sampled"`` for the convex program of
# the paper (never certified), ``"hull"`` for P = 1. They can be compared in one line each.

exact = fenchel.biconjugate(loss, q).value
print(f"hull        {fenchel.biconjugate(loss, q, method='hull').value - exact:+.1e}")
print(f"ReLU, Scarf {fenchel.biconjugate(fenchel.losses.ReLU(), q, method='closed-form').value:.12f}")
print(f"ReLU, proof {fenchel.biconjugate(fenchel.losses.ReLU(), q).value:.12f}")
