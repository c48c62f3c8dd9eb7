"""
Plain loop
==========

A closure zeroes the gradients, evaluates, calls backward and returns the loss. That is all that bSAM needs.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fenchel.optim import BSAM
from fenchel.predict import predict_bma

torch.manual_seed(0)
inputs = torch.randn(512, 10)
labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True)
model = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 2))

# %%
# ``num_data`` is the number of training examples: with it the loss, a mean, becomes the likelihood of all data.
optimizer = BSAM(model.parameters(), lr=0.5, num_data=len(inputs), rho=0.01, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)

for _ in range(40):
    for x, y in loader:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    scheduler.step()

# %%
# Predictions average over samples of the posterior that the optimizer holds; their loader must not shuffle.
probabilities = predict_bma(model, optimizer, DataLoader(TensorDataset(inputs, labels), batch_size=128), samples=16)
print(f"mean confidence {probabilities.max(dim=1).values.mean():.2f}")

# %%
# A batch that does not fit is two closures of one step (m-sharpness), never two backward passes into one gradient.
accuracy = (model(inputs).argmax(dim=1) == labels).double().mean().item()
print(f"accuracy on the training data: {accuracy:.2f}")
