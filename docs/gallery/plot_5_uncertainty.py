r"""
How sure is a trained network?
==============================

Point estimates are often too sure of themselves. Averaging the predictions of posterior samples can help; where the
posterior comes from (bSAM, SWAG, a Laplace approximation) is a matter of one argument.
"""

# %%
# In short
# --------

import torch
from torch import nn

from fenchel.metrics import evaluate
from fenchel.predict import DiagonalGaussian, predict_bma

model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 3))  # your trained network
inputs, labels = torch.randn(500, 2), torch.randint(3, (500,))  # your test data, or a DataLoader
posterior = DiagonalGaussian(model, variance=0.01)  # or your BSAM, VOGN, IVON, SWAG; or fit_laplace(model, loader)
probabilities = predict_bma(model, posterior, inputs, samples=32)  # (500, 3)
print(evaluate(probabilities, labels))

# %%
# Three posteriors of one problem
# -------------------------------
# Three classes that overlap, 150 training points, 3000 test points.

import matplotlib.pyplot as plt
from torch.utils.data import DataLoader, TensorDataset

from fenchel.optim import BSAM, SWAG
from fenchel.predict import fit_laplace


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (count, 2) of three Gaussian classes, and labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 3
    centers = torch.tensor([[0.0, 1.2], [-1.0, -0.6], [1.0, -0.6]])
    return centers[classes] + torch.randn(count, 2, generator=generator), classes


train_x, train_y = blobs(150, 0)
test_x, test_y = blobs(3000, 1)


def network() -> nn.Module:
    """The same start for all."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, swag: SWAG | None = None) -> None:
    """Batches of 50 in a fixed order; ``swag`` watches the last half."""
    for epoch in range(epochs):
        for start in range(0, 150, 50):
            batch = slice(start, start + 50)

            def closure(batch: slice = batch) -> torch.Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(train_x[batch]), train_y[batch])
                loss.backward()
                return loss

            optimizer.step(closure)
        if swag is not None and epoch >= epochs // 2:
            swag.collect()


bayes = network()
bsam = BSAM(bayes.parameters(), lr=0.2, num_data=150, rho=0.02, betas=(0.9, 0.99), weight_decay=1e-3, seed=0)
train(bayes, bsam, 300)

point = network()
swag = SWAG(point.parameters(), seed=0)
train(point, torch.optim.SGD(point.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3), 300, swag)
loader = DataLoader(TensorDataset(train_x, train_y), batch_size=50)
laplace = fit_laplace(point, loader, prior_precision=0.15)  # the weight decay times the number of data

predictions = {
    "point estimate (SGD)": predict_bma(point, None, test_x, "mean"),
    "bSAM, 32 samples": predict_bma(bayes, bsam, test_x, 32, seed=0),
    "SWAG, 32 samples": predict_bma(point, swag, test_x, 32, seed=0),
    "Laplace, linearized": predict_bma(point, laplace, test_x, 32, seed=0),
}
for name, probability in predictions.items():
    found = evaluate(probability, test_y)
    print(
        f"{name:22s} accuracy {found.accuracy:.3f}  NLL {found.nll:.3f}  ECE {found.ece:.3f}  AUROC {found.auroc:.3f}"
    )

# %%
# The reliability plot: among the predictions with a given confidence, the share that is right. Below the diagonal a
# network is too sure. ECE, the expected calibration error, is the mean distance from the diagonal; NLL the negative
# log-likelihood; AUROC how well confidence tells right predictions from wrong ones: the paper's four numbers.

edges = torch.linspace(1 / 3, 1, 11)
figure, axes = plt.subplots(1, 4, figsize=(11, 3), sharey=True, layout="constrained")
for axis, (name, probability) in zip(axes, predictions.items(), strict=True):
    confidence, guess = probability.max(dim=1)
    right = (guess == test_y).double()
    place = torch.bucketize(confidence, edges[1:-1])
    full = [k for k in range(10) if (place == k).sum() >= 30]  # of fewer predictions a share says little
    share = torch.stack([right[place == k].mean() for k in full])
    mean = torch.stack([confidence[place == k].mean() for k in full])
    axis.plot([1 / 3, 1], [1 / 3, 1], "k:")
    axis.plot(mean, share, "o-", color="C3", markersize=3)
    axis.set(title=name, xlabel="confidence")
_ = axes[0].set(ylabel="share that is right")

# %%
# This is one seed of one toy problem: it shows how to look, not which method is best. ``predict_bma`` takes a loader
# as well as a tensor, leaves the model as it was, bit for bit, and averages probabilities, not logits.
#
# It is for classifiers. Where a network predicts numbers, average its outputs over several
# ``with optimizer.sampled_params(), torch.no_grad(): ...``, and train it on a mean negative log-likelihood as well:
# under Gaussian noise of variance v that is the mean square over 2 v, and a bare mean square says that v is 1/2.
