"""
Accelerate
==========

The prepared optimizer takes a closure as any other. Gradient accumulation stays at 1: several micro-batches are several
closures of one step.
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fenchel.optim import BSAM
from fenchel.predict import predict_bma

torch.manual_seed(0)
inputs = torch.randn(512, 10)
labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
model = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 2))
optimizer = BSAM(model.parameters(), lr=0.5, num_data=len(inputs), rho=0.01, weight_decay=1e-4)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True)

# %%
accelerator = Accelerator(cpu=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for _ in range(40):
    for x, y in loader:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            return loss

        optimizer.step(closure)

# %%
# The prepared optimizer is understood where a posterior is asked for.
probabilities = predict_bma(model, optimizer, DataLoader(TensorDataset(inputs, labels), batch_size=128), samples=16)
accuracy = (model(inputs).argmax(dim=1) == labels).double().mean().item()
print(f"accuracy on the training data: {accuracy:.2f}")
