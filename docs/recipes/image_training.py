"""
A timm-like training loop
=========================

What image training scripts have: parameter groups without weight decay, a warm-up and cosine schedule, autocast in
bfloat16, clipping, mixed labels, and a checkpoint from which training goes on.
"""

import io

import torch
from torch import nn

from fenchel.optim import BSAM

torch.manual_seed(0)
images = torch.randn(256, 3, 8, 8)
labels = (images[:, 0].mean(dim=(1, 2)) > 0).long()
model = nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)
)
plain = [p for p in model.parameters() if p.ndim > 1]
no_decay = [p for p in model.parameters() if p.ndim <= 1]

# %%
groups = [{"params": plain, "weight_decay": 1e-4}, {"params": no_decay, "weight_decay": 0.0}]
optimizer = BSAM(groups, lr=0.5, num_data=len(images), rho=0.01, max_grad_norm=5.0)
warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=5)
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=25)
scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[5])
loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)


def train(epochs):
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):

            def closure(index=index):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_function(model(images[index]), labels[index])
                loss.backward()
                return loss

            optimizer.step(closure)
        scheduler.step()


train(15)

# %%
# A checkpoint holds the weights, the optimizer with its noise, and the schedule.
file = io.BytesIO()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": scheduler.state_dict()}, file)
file.seek(0)
checkpoint = torch.load(file, weights_only=True)
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
scheduler.load_state_dict(checkpoint["schedule"])
train(15)
model.eval()
accuracy = (model(images).argmax(dim=1) == labels).double().mean().item()
print(f"accuracy on the training data: {accuracy:.2f}")
