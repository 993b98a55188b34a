"""The network, the data and the accuracy of appendix A, for its notebooks and DDP-script.py.

Shapes: B batch, N examples, I inputs, O outputs (classes).
"""

import torch
from torch.utils.data import Dataset


class NeuralNetwork(torch.nn.Module):
    """Two hidden layers of 30 and 20 units, each with a ReLU behind it, and an output layer.

    Args:
        num_inputs: I, the numbers that describe an example.
        num_outputs: O, the number of classes.

    Source: book, section A.5.
    """

    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(num_inputs, 30),
            torch.nn.ReLU(),
            torch.nn.Linear(30, 20),
            torch.nn.ReLU(),
            torch.nn.Linear(20, num_outputs),
        )

    def forward(self, x):
        """(B, I) -> (B, O) logits, not probabilities."""
        return self.layers(x)


class ToyDataset(Dataset):
    """Examples and their classes, for a DataLoader.

    Args:
        X: (N, I) float.
        y: (N,) int64, the class of each row of X.

    Raises:
        ValueError: X and y differ in length.

    Source: book, section A.6.
    """

    def __init__(self, X, y):
        if len(X) != len(y):
            raise ValueError(f"Each row needs a label, but there are {len(X)} and {len(y)}.")
        self.features = X
        self.labels = y

    def __getitem__(self, index):
        """The row (I,) and its label, a tensor without dimensions."""
        return self.features[index], self.labels[index]

    def __len__(self):
        return self.labels.shape[0]


def compute_accuracy(model, dataloader, device="cpu"):
    """The share of examples that get their own class, a float from 0 to 1.

    Leaves the model in evaluation mode.

    Args:
        model: gives (B, O) logits; on `device`.
        dataloader: of pairs (B, I), (B,); at least one example in all.

    Raises:
        ValueError: the loader has no examples.

    Source: book, sections A.7 and A.9.2.
    """
    model.eval()
    correct, num_examples = 0, 0
    for features, labels in dataloader:
        features, labels = features.to(device), labels.to(device)
        with torch.no_grad():
            predictions = model(features).argmax(dim=1)  # (B,)
        correct += (predictions == labels).sum().item()
        num_examples += len(labels)
    if num_examples == 0:
        raise ValueError("There is no accuracy without examples: the loader is empty.")
    return correct / num_examples
