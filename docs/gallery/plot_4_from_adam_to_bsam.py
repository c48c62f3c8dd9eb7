r"""
From Adam or SAM to bSAM
========================

bSAM trains like Adam and leaves a mean and a variance of every weight. Three things differ from Adam: a step takes a
*closure* (it evaluates the gradient twice), the learning rate has another scale (the step is ``lr * g / s``, Adam's
``lr * g / sqrt(s)``), and it wants to know how many data there are.
"""

# %%
# In short
# --------

import torch
from torch import nn

from fenchel.optim import BSAM

x, y = torch.randn(200, 2), torch.randint(2, (200,))
model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = BSAM(model.parameters(), lr=0.3, num_data=len(x), rho=0.02)  # was: Adam(model.parameters(), lr=1e-3)


def closure():
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)  # the mean over the batch, as ever
    loss.backward()
    return loss


optimizer.step(closure)

# %%
# ``SAM(model.parameters(), torch.optim.Adam, rho=0.05, lr=1e-3)`` takes the same closures. With a list of closures,
# one for each part of the batch, each part has its own perturbation (m-sharpness).
#
# What the settings do, and what goes wrong
# -----------------------------------------
# Two half moons, 100 points, a small network. The background is the averaged probability of one class under 32
# samples of the posterior: white where the network does not know.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from fenchel.optim import SettingsWarning
from fenchel.predict import evaluate_bma, predict_bma
from fenchel.problems import two_moons_points


def moons(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (count, 2) and labels (count,) in {0, 1}."""
    points, labels = two_moons_points(count, 0.15, np.random.default_rng(seed))
    return torch.tensor(points, dtype=torch.float32), torch.tensor(labels > 0).long()


train_x, train_y = moons(100, 0)
test = [moons(1000, 1)]
batches = [slice(start, start + 25) for start in range(0, 100, 25)]
side = torch.linspace(-2.0, 3.0, 60), torch.linspace(-2.0, 2.5, 60)
grid = torch.cartesian_prod(*side)


def trained(**changed: float) -> tuple[nn.Module, BSAM, list[str]]:
    """A network after 150 epochs with the settings ``changed``, its optimizer, and what the optimizer warned of."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    settings = {"lr": 0.3, "num_data": 100, "rho": 0.02, "damping": 0.1, "weight_decay": 1e-3, **changed}
    optimizer = BSAM(network.parameters(), betas=(0.9, 0.99), seed=0, **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SettingsWarning)
        for _ in range(150):
            for batch in batches:

                def closure(batch: slice = batch) -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = nn.functional.cross_entropy(network(train_x[batch]), train_y[batch])
                    loss.backward()
                    return loss

                optimizer.step(closure)
            schedule.step()
    return network, optimizer, [str(w.message) for w in told if issubclass(w.category, SettingsWarning)]


def show(variants: dict[str, dict[str, float]]) -> None:
    """One panel a variant, with its accuracy and negative log-likelihood on 1000 test points."""
    _, axes = plt.subplots(1, len(variants), figsize=(3 * len(variants), 2.9), layout="constrained")
    for axis, (name, changed) in zip(axes, variants.items(), strict=True):
        network, optimizer, told = trained(**changed)
        for sentence in told:
            print(f"{name}: {sentence}")
        axis.set(title=f"{name}\ndiverged: weights are NaN", xticks=[], yticks=[])
        if not all(p.isfinite().all() for p in network.parameters()):
            continue
        found = evaluate_bma(network, optimizer, test, samples=32, seed=0)
        probability = predict_bma(network, optimizer, grid, samples=32, seed=0)[:, 1].reshape(60, 60)
        axis.contourf(*side, probability.T, levels=np.linspace(0, 1, 21), cmap="RdBu_r")
        for label, color in enumerate(("C0", "C3")):
            axis.scatter(*train_x[train_y == label].T, color=color, s=14, edgecolors="w", linewidths=0.7)
        axis.set_title(f"{name}\naccuracy {found.accuracy:.3f}, NLL {found.nll:.3f}")


show({"as it should be": {}, "lr = 1e-3, an Adam habit": {"lr": 1e-3}, "lr = 30": {"lr": 30.0}})

# %%
# **lr.** Try 0.05 to 1. A rate that suits Adam leaves the network where it began, and the optimizer says so; so it
# does of a loss that became NaN.

show({"num_data = 100": {}, "num_data = 1": {"num_data": 1}, "num_data = 10,000": {"num_data": 10_000}})

# %%
# **num_data** is the number of training examples, not of batches: the variance of a weight is ``1 / (num_data * s)``.
# Too small a number drowns the network in noise. Too large a number makes it as sure of itself as a point estimate,
# which pays on a problem as easy as this one and costs where the classes overlap. It is no knob: it says what you
# know. ``data_factor`` multiplies it for augmented data.

show({"rho = 0": {"rho": 0.0}, "rho = 0.02": {}, "rho = 0.3": {"rho": 0.3}})

# %%
# **rho** scales the perturbation ``rho * g / s``. It is the setting to search over, by factors of 3, from 1e-3 up.

show({"damping = 0.003": {"damping": 0.003}, "damping = 0.1": {}, "damping = 3": {"damping": 3.0}})

# %%
# **damping** keeps ``s``, of which it is a part, away from zero: with little of it the step ``lr * g / s`` is too
# long where the loss is flat. On small data it is more than a safeguard: it acts as a prior precision ``num_data *
# damping`` in the variance, so a large one makes the posterior narrow and the steps short. Change ``lr`` along with
# it.
#
# **weight_decay** is the prior's precision over ``num_data``. ``s_init`` is the first ``s``, which is forgotten only
# over ``1 / (1 - betas[1])`` steps: on short runs choose a smaller ``betas[1]`` than the 0.999 of long ones, as was
# done here. It must also be large enough: where the loss has a curvature above ``2 * s_init / lr`` the first steps
# overshoot, their large gradients enter ``s``, and for those ``1 / (1 - betas[1])`` steps little moves. That is easily
# seen in regression, where a Gaussian likelihood of small noise is steep.
#
# **sqrt_num_data.** With Algorithm 1 as printed ``s`` settles, on small data, about sqrt(N) times below the curvature,
# until the damping holds it, so that samples vary too much: two to three times for 50 points of a line under a Gaussian
# likelihood. With the factor sqrt(N) of the paper's derivation they vary as under exact Bayes, to some 10 %, provided
# that the minibatch is the whole of the data: from smaller ones ``s`` takes their noise for curvature, and with ten of
# those points a step the samples vary half as much as they should.
