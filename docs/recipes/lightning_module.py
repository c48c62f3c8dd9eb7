"""
Lightning
=========

Automatic optimization works as it is: Lightning hands its own closure to ``step``. Leave ``accumulate_grad_batches`` at
1, since Lightning would add the gradients of several batches into one, and clip by the optimizer's ``max_grad_norm``.
"""

import logging
import warnings

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fenchel.optim import BSAM

warnings.filterwarnings("ignore", category=UserWarning)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.manual_seed(0)
inputs = torch.randn(512, 10)
labels = (inputs[:, 0] * inputs[:, 1] > 0).long()


# %%
class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 2))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return BSAM(self.parameters(), lr=0.5, num_data=512, rho=0.01, weight_decay=1e-4, max_grad_norm=10.0)


module = Classifier()
trainer = lightning.Trainer(
    max_epochs=40, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
trainer.fit(module, DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True))

# %%
# With ``precision="bf16-mixed"`` the same code trains under autocast: both passes see the weights they should.
accuracy = (module.net(inputs).argmax(dim=1) == labels).double().mean().item()
print(f"accuracy on the training data: {accuracy:.2f}")
