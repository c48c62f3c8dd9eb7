"""
FSDP2: one model over several processes
=======================================

``fully_shard`` turns the parameters into shards. Norms are taken over all of them and the noise belongs to a weight,
not to a process, so that the result is that of one process. Run this page with
``torchrun --nproc-per-node 2 fsdp_processes.py``; without torchrun it is a single process.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fenchel.optim import BSAM

for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29531")):
    os.environ.setdefault(name, value)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

# %%
# Every process builds the same model and takes its share of each batch.
torch.manual_seed(0)
inputs = torch.randn(512, 10)
labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
model = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 2))
fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
optimizer = BSAM(model.parameters(), lr=0.5, num_data=len(inputs), rho=0.01, weight_decay=1e-4)

for _ in range(40):
    for index in torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1)).split(64):
        mine = index[rank::world]

        def closure(mine=mine):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[mine]), labels[mine])
            loss.backward()
            return loss

        optimizer.step(closure)

# %%
accuracy = (model(inputs).argmax(dim=1) == labels).double().mean().item()
if rank == 0:
    print(f"accuracy on the training data: {accuracy:.2f}")
dist.barrier()
dist.destroy_process_group()
