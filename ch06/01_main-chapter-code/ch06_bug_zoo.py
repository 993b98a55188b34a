"""Nine pieces of chapter 6, each with one bug: the specimens of bug-zoo.ipynb. Do not import them.

The docstrings say what the code is meant to do. The notebook shows what each does instead.

Shapes: B batch, T tokens, C classes, N messages. Label 1 is spam, label 0 ham.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from gpt_class_finetune import calc_accuracy_loader, calc_loss_batch, pad_or_cut


def split_1(labels, train_frac, validation_frac):
    """Places of the training, validation and test messages, three lists: the test is the rest.

    Each part is a fair sample of the messages, in whatever order these are listed.
    """
    places = list(range(len(labels)))
    train_end = int(len(places) * train_frac)
    val_end = train_end + int(len(places) * validation_frac)
    return places[:train_end], places[train_end:val_end], places[val_end:]


def batches_2(messages, batch_size, max_length, pad_token_id):
    """Lists of ids as batches (B, T), with padding behind, or the end cut off.

    A message becomes the same T ids whichever messages are beside it, in training and later.
    """
    batches = []
    for start in range(0, len(messages), batch_size):
        batch = messages[start : start + batch_size]
        # Padding takes time: no more of it than the batch needs.
        num_tokens = min(max(map(len, batch)), max_length)
        rows = [pad_or_cut(ids, num_tokens, pad_token_id) for ids in batch]
        batches.append(torch.tensor(rows))
    return batches


def make_classifier_3(model, num_classes):
    """Give a `GPTModel` a new output layer with C logits, and freeze most of it; returns the model.

    The new layer, the last block and the last normalization are to be trained, the rest is not.
    """
    model.out_head = nn.Linear(model.out_head.in_features, num_classes)
    for parameter in model.parameters():
        parameter.requires_grad = False
    for module in (model.trf_blocks[-1], model.final_norm):
        for parameter in module.parameters():
            parameter.requires_grad = True
    return model


def message_loss_4(input_batch, target_batch, model):
    """Mean cross-entropy of messages (B, T) whose labels are (B,), a scalar tensor.

    A model that is sure of each message's label, and right, has a loss near 0.
    """
    logits = model(input_batch)  # (B, T, C)
    targets = target_batch.unsqueeze(1).expand(input_batch.shape)  # (B, T)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def predict_5(model, ids):
    """The label of each message, (B, T) -> (B,), by a classifier in evaluation mode."""
    with torch.no_grad():
        logits = model(ids)  # (B, T, C)
    labels = logits.argmax(dim=-1)  # (B, T)
    return labels[:, 0]  # (B,)


def accuracy_6(model, batches):
    """Share of messages whose likeliest class is their label; a batch is (ids, labels).

    For use amid training: afterwards the model is in the mode in which it was.
    """
    num_right = num_seen = 0
    with torch.no_grad():
        for ids, labels in batches:
            predictions = model(ids)[:, -1, :].argmax(dim=-1)  # (B,)
            num_right += (predictions == labels).sum().item()
            num_seen += len(labels)
    return num_right / num_seen


def train_epochs_7(model, batches, optimizer, num_epochs):
    """Train a classifier with dropout; the accuracy without dropout after each epoch, a list."""
    model.train()
    accuracies = []
    for _ in range(num_epochs):
        for ids, labels in batches:
            optimizer.zero_grad()
            calc_loss_batch(ids, labels, model, "cpu").backward()
            optimizer.step()
        accuracies.append(calc_accuracy_loader(batches, model, "cpu"))
    return accuracies


def score_8(labels, predictions):
    """How well spam and ham are told apart, from 0 to 1, by two lists with both classes in them.

    1 if all predictions are right, 0.5 if they are the same for all messages.
    """
    pairs = zip(labels, predictions, strict=True)
    return sum(label == prediction for label, prediction in pairs) / len(labels)


def choose_epoch_9(val_accuracy, test_accuracy, num_epochs):
    """The epoch to use, from 1 on, and its accuracy on messages that had no part in any choice.

    `val_accuracy(epoch)` and `test_accuracy(epoch)` measure the model as it was after an epoch, on
    the validation and on the test messages. Of equally good epochs the earliest is taken.
    """
    best_epoch, best_accuracy = 1, 0.0
    for epoch in range(1, num_epochs + 1):
        # Both parts together: the more messages, the surer the choice.
        accuracy = (val_accuracy(epoch) + test_accuracy(epoch)) / 2
        if accuracy > best_accuracy:
            best_epoch, best_accuracy = epoch, accuracy
    return best_epoch, test_accuracy(best_epoch)
