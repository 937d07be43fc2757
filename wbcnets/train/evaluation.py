"""How well a model does on the evaluation images, each counted once by any number of processes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wbcnets.engine.distributed import DistributedContext
from wbcnets.engine.worker_watchdog import watched_batches
from wbcnets.evaluation.metrics import ClassifierMetrics, compute_metrics

WATCHED = ("log_loss", "accuracy", "balanced_accuracy", "f1_macro", "auroc_macro")


@torch.inference_mode()
def predict_shard(
    model: nn.Module,
    loader: DataLoader[Any],
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Logits of the loader's images, `(n, K)` float32 on the CPU; the model is left as it was."""
    was_training = model.training
    model.eval()
    rows = []
    for images, _ in watched_batches(loader):
        images = images.to(device, non_blocking=True, memory_format=memory_format)
        with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
            logits = model(images)
        rows.append(logits.float())
    model.train(was_training)
    return torch.cat(rows).cpu() if rows else torch.empty(0)


def evaluate(
    model: nn.Module,
    loader: DataLoader[Any],
    labels: Sequence[int],
    class_names: Sequence[str],
    processes: DistributedContext,
    amp_dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> ClassifierMetrics:
    """The figures of a model, without intervals; the same in every process.

    Args:
        model: The classifier.
        loader: This process's share of the images, see `create_val_loader`.
        labels: The labels of all images.
        class_names: The classes.
        processes: Who has which images.
        amp_dtype: Of automatic mixed precision, None for none.
        memory_format: Of the images.
    """
    shard = predict_shard(model, loader, processes.device, amp_dtype, memory_format)
    probabilities = processes.gather_shards(shard).double().softmax(dim=1).numpy()
    return compute_metrics(labels, probabilities, class_names, resamples=0)


def watched(judgement: ClassifierMetrics) -> dict[str, float]:
    """The figures that training is watched by, `WATCHED`; NaN where undefined."""
    values = {name: judgement.overall[name] for name in WATCHED}
    return {name: float("nan") if value is None else value for name, value in values.items()}
