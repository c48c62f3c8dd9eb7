"""
Hugging Face Trainer
====================

``Trainer`` calls ``optimizer.step()`` without a closure. A mixin hands every micro-batch over as one, so that gradient
accumulation is m-sharpness, and schedulers, logging, checkpoints and evaluation stay as they are.
"""

# %%
# The data and the model are a stand-in: any ``PreTrainedModel`` that returns ``.loss`` will do.
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from fenchel.integrations import ClosureTrainerMixin
from fenchel.optim import BSAM
from fenchel.predict import predict_bma

torch.manual_seed(0)
tokens = torch.randint(10, 60, (256, 12))
labels = (tokens[:, 0] > 35).long()
data = [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]
config = BertConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


# %%
# The mixin goes before ``Trainer``; clipping, if any, is the optimizer's: ``BSAM(..., max_grad_norm=1.0)``.
class BayesTrainer(ClosureTrainerMixin, Trainer):
    pass


model = BertForSequenceClassification(config)
optimizer = BSAM(model.parameters(), lr=0.5, num_data=len(data), rho=0.01, weight_decay=1e-4, max_grad_norm=1.0)
arguments = TrainingArguments(
    tempfile.mkdtemp(), per_device_train_batch_size=16, gradient_accumulation_steps=2, num_train_epochs=40,
    max_grad_norm=0.0, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, seed=0,
)  # fmt: skip
trainer = BayesTrainer(model, arguments, train_dataset=data, optimizers=(optimizer, None))
trainer.train()

# %%
# The posterior is the optimizer's; predictions average over its samples.
probabilities = predict_bma(model, optimizer, [({"input_ids": tokens}, labels)], samples=8)
accuracy = (probabilities.argmax(dim=1) == labels).double().mean().item()
print(f"accuracy on the training data: {accuracy:.2f}")
