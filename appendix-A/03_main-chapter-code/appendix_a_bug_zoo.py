"""Eight pieces of a training, each with one bug, for bug-zoo.ipynb. Do not import them.

The docstrings say what the code is meant to do. The notebook shows what each does instead.

Shapes: B batch, N examples, I inputs, O outputs (classes).
"""

import torch
import torch.nn.functional as F


def train_1(model, loader, optimizer, num_epochs):
    """Train for some epochs; the loss of each batch, as a list of floats."""
    losses = []
    model.train()
    for _ in range(num_epochs):
        for features, labels in loader:
            loss = F.cross_entropy(model(features), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def train_2(model, loader, optimizer, num_epochs):
    """Train for some epochs; the loss of each batch, as a list of floats."""
    losses = []
    model.train()
    for _ in range(num_epochs):
        for features, labels in loader:
            loss = F.cross_entropy(model(features), labels)
            loss.backward()
            optimizer.zero_grad()
            optimizer.step()
            losses.append(loss.item())
    return losses


def prepare_3(model, num_classes, lr):
    """Give a network a new output layer for other classes; an optimizer for all its parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    num_inputs = model.layers[-1].in_features
    model.layers[-1] = torch.nn.Linear(num_inputs, num_classes)
    return optimizer


class Network4(torch.nn.Module):
    """Two hidden layers of 30 and 20 units, each with a ReLU behind it, and an output layer."""

    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        sizes = [num_inputs, 30, 20, num_outputs]
        self.layers = [torch.nn.Linear(sizes[i], sizes[i + 1]) for i in range(3)]

    def forward(self, x):
        """(B, I) -> (B, O) logits."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def accuracy_5(model, loader):
    """The share of all examples of a loader that get their own class, a float from 0 to 1."""
    model.eval()
    shares = []
    for features, labels in loader:
        with torch.no_grad():
            predictions = model(features).argmax(dim=1)
        shares.append((predictions == labels).float().mean().item())
    return sum(shares) / len(shares)


def shuffled_6(features, labels):
    """The examples in a random order: features (N, I), labels (N,)."""
    features = features[torch.randperm(len(features))]
    labels = labels[torch.randperm(len(labels))]
    return features, labels


def loss_7(model, features, targets):
    """Mean of the squared errors of a model that gives (B, 1) for features (B, I); targets (B,)."""
    return ((model(features) - targets) ** 2).mean()


def train_8(model, loader, optimizer, num_epochs):
    """Train for some epochs; the loss of each batch, as a list of floats."""
    losses = []
    model.train()
    for _ in range(num_epochs):
        for features, labels in loader:
            loss = F.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss)
    return losses
