"""The Avalanche side of the comparison, run by Avalanche's own interpreter. Needs no lora-cl.

python avalanche_naive.py WAY DATA THREADS SEEDS: naive fine-tuning on class-incremental Split-MNIST
with an MLP 784-400-400-10; after every experience all experiences so far are evaluated.

WAY tutorial is what Avalanche's documentation shows: its own SplitMNIST, with its transform for
every sample; DATA is the folder that holds MNIST/raw. WAY tensors is the fastest that its
interface allows: float32 tensors made once, fused Adam; DATA is an .npz file. THREADS 0 leaves
torch its default. Prints one JSON object a seed: the accuracies after the last experience.
"""

import json
import sys

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.classic import SplitMNIST
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import TensorDataset

ORDER = list(range(10))


class Tensors(TensorDataset):
    """Images and labels in memory; Avalanche wants to see the labels as ``targets``."""

    def __init__(self, x, y):
        super().__init__(x, y)
        self.targets = y.tolist()


def load(path):
    """The training and the test set: float32 images in [0, 1], made once and kept in memory."""
    with np.load(path) as data:
        return [
            Tensors(
                torch.from_numpy(data[f"x_{part}"]).to(torch.float32) / 255,
                torch.from_numpy(data[f"y_{part}"]),
            )
            for part in ("train", "test")
        ]


def run(benchmark, fused, eval_batch, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 400),
        nn.ReLU(),
        nn.Linear(400, 400),
        nn.ReLU(),
        nn.Linear(400, 10),
    )
    strategy = Naive(
        model=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=128,
        train_epochs=1,
        eval_mb_size=eval_batch,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    )
    steps, found = 0, {}
    for k, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, num_workers=0)
        steps += strategy.clock.train_exp_iterations
        found = strategy.eval(list(benchmark.test_stream)[: k + 1], num_workers=0)
    accuracies = [found[key] for key in sorted(found) if key.startswith("Top1_Acc_Exp")]
    print(json.dumps({"seed": seed, "steps": steps, "accuracies": accuracies}), flush=True)


def main():
    way, path, threads, seeds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if threads:
        torch.set_num_threads(threads)
    if way == "tensors":
        train, test = load(path)
        for seed in range(seeds):
            benchmark = nc_benchmark(train, test, 5, task_labels=False, fixed_class_order=ORDER)
            run(benchmark, fused=True, eval_batch=2048, seed=seed)
        return
    for seed in range(seeds):
        benchmark = SplitMNIST(n_experiences=5, fixed_class_order=ORDER, dataset_root=path)
        run(benchmark, fused=None, eval_batch=128, seed=seed)


if __name__ == "__main__":
    main()
