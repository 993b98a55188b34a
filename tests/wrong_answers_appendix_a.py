"""Plausible wrong answers to appendix A's exercises, each with the rule that must refuse it."""

import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import appendix_a_bug_zoo as zoo
from toy_network import NeuralNetwork

WRONG_ANSWERS = []  # (number, name of the rule, answer)


def wrong(number, rule):
    def note(answer):
        WRONG_ANSWERS.append((number, rule, answer))
        return answer

    return note


# A.3

wrong("A.3", "weights_and_biases_are_counted")(700)  # no biases
wrong("A.3", "weights_and_biases_are_counted")(2213)  # of 50 inputs and 3 outputs
wrong("A.3", "weights_and_biases_are_counted")(6)  # tensors, not the numbers in them

# A.4


def seconds(function, calls):
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - start


@wrong("A.4", "there_are_enough_calls")
def no_call_for_practice(function, repetitions):
    return seconds(function, repetitions) / repetitions


@wrong("A.4", "there_are_enough_calls")
def a_single_call(function, repetitions):
    function()
    return seconds(function, 1)


@wrong("A.4", "result_is_seconds_per_call")
def not_divided(function, repetitions):
    function()
    return seconds(function, repetitions)


@wrong("A.4", "result_is_seconds_per_call")
def milliseconds(function, repetitions):
    function()
    return 1000 * seconds(function, repetitions) / repetitions


@wrong("A.4", "result_is_seconds_per_call")
def time_of_the_processor(function, repetitions):
    function()
    start = time.process_time()  # a call that sleeps costs none
    for _ in range(repetitions):
        function()
    return (time.process_time() - start) / repetitions


@wrong("A.4", "the_first_call_does_not_count")
def practice_measured_too(function, repetitions):
    return seconds(function, repetitions + 1) / (repetitions + 1)


# A.5


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


@wrong("A.5", "sections_numbers_come_out")
def signs_turned_round(x1, w1, b, y):
    slope = y - sigmoid(x1 * w1 + b)
    return slope * x1, slope


@wrong("A.5", "sections_numbers_come_out")
def weight_in_place_of_the_input(x1, w1, b, y):
    slope = sigmoid(x1 * w1 + b) - y
    return slope * w1, slope


@wrong("A.5", "sections_numbers_come_out")
def slope_of_the_sigmoid_once_more(x1, w1, b, y):
    a = sigmoid(x1 * w1 + b)
    return (a - y) * a * (1 - a) * x1, (a - y) * a * (1 - a)


@wrong("A.5", "other_numbers_come_out")
def bias_forgotten(x1, w1, b, y):
    slope = sigmoid(x1 * w1) - y
    return slope * x1, slope


@wrong("A.5", "the_other_class_comes_out")
def as_if_the_answer_were_one(x1, w1, b, y):
    slope = sigmoid(x1 * w1 + b) - 1
    return slope * x1, slope


# A.6


@torch.no_grad()
def step(model, lr, clear=True):
    """The right answer, if nothing is cleared away after it."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter -= lr * parameter.grad
            parameter.grad = None if clear else parameter.grad
    return model


@wrong("A.6", "the_model_itself_is_changed")
@torch.no_grad()
def new_tensors(model, lr):
    for parameter in model.parameters():
        parameter = parameter - lr * parameter.grad
    return model


@wrong("A.6", "the_model_itself_is_changed")
def another_model(model, lr):
    other = NeuralNetwork(2, 2)
    other.load_state_dict(model.state_dict())
    return step(other, lr)


@wrong("A.6", "parameters_lose_their_share")
@torch.no_grad()
def uphill(model, lr):
    for parameter in model.parameters():
        parameter += lr * parameter.grad
        parameter.grad = None
    return model


@wrong("A.6", "parameters_lose_their_share")
@torch.no_grad()
def weights_alone(model, lr):
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter -= lr * parameter.grad
        parameter.grad = None
    return model


@wrong("A.6", "frozen_parameters_stay")
@torch.no_grad()
def none_not_expected(model, lr):
    for parameter in model.parameters():
        parameter -= lr * parameter.grad
        parameter.grad = None
    return model


@wrong("A.6", "gradients_are_cleared")
def not_cleared(model, lr):
    return step(model, lr, clear=False)


@wrong("A.6", "another_step_is_possible")
def frozen_afterwards(model, lr):
    return step(model, lr).requires_grad_(False)


# A.7


@wrong("A.7", "shares_are_of_equal_size")
def dealt_out_until_there_are_none(num_examples, world_size, rank):
    return list(range(rank, num_examples, world_size))


@wrong("A.7", "examples_exist")
def beyond_the_end(num_examples, world_size, rank):
    size = math.ceil(num_examples / world_size)
    return list(range(rank, size * world_size, world_size))


@wrong("A.7", "nobody_is_left_out")
def rounded_down(num_examples, world_size, rank):
    size = num_examples // world_size
    return list(range(rank * size, (rank + 1) * size))


@wrong("A.7", "nobody_is_left_out")
def all_the_same(num_examples, world_size, rank):
    return list(range(math.ceil(num_examples / world_size)))


@wrong("A.7", "no_more_than_needed")
def everything_for_everybody(num_examples, world_size, rank):
    return list(range(num_examples))


# A.bug1, A.bug2 and A.bug8


def trained(clear_when="always", note=None, all_epochs=True):
    """A training function with a fault, or none."""

    def train(model, loader, optimizer, num_epochs):
        losses = []
        for epoch in range(num_epochs):
            if clear_when == "in each epoch" or (clear_when == "once" and epoch == 0):
                optimizer.zero_grad()
            for features, labels in loader:
                loss = F.cross_entropy(model(features), labels)
                if clear_when == "always":
                    optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(note(model, features, labels, loss) if note else loss.item())
        return losses if all_epochs else losses[-len(loader) :]

    return train


wrong("A.bug1", "steps_follow_their_own_batch")(zoo.train_1)
wrong("A.bug1", "steps_follow_their_own_batch")(trained("in each epoch"))
wrong("A.bug1", "steps_follow_their_own_batch")(trained("once"))
wrong("A.bug1", "each_batch_has_a_loss")(trained(all_epochs=False))


@wrong("A.bug1", "losses_are_those_of_the_batches")
def losses_after_the_step(model, loader, optimizer, num_epochs):
    def after(model, features, labels, loss):
        return F.cross_entropy(model(features), labels).item()

    return trained(note=after)(model, loader, optimizer, num_epochs)


@wrong("A.bug1", "losses_are_those_of_the_batches")
def summed_over_the_batch(model, loader, optimizer, num_epochs):
    def total(model, features, labels, loss):
        return loss.item() * len(labels)

    return trained(note=total)(model, loader, optimizer, num_epochs)


wrong("A.bug2", "weights_change")(zoo.train_2)


@wrong("A.bug2", "weights_change")
def step_forgotten(model, loader, optimizer, num_epochs):
    losses = []
    for features, labels in list(loader) * num_epochs:
        losses.append(F.cross_entropy(model(features), labels))
        losses[-1].backward()
        optimizer.zero_grad()
    return losses


@wrong("A.bug2", "steps_follow_their_own_batch")
def step_before_backward(model, loader, optimizer, num_epochs):
    losses = []
    for features, labels in list(loader) * num_epochs:
        optimizer.step()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features), labels)
        loss.backward()
        losses.append(loss.item())
    return losses


wrong("A.bug8", "losses_are_plain_numbers")(zoo.train_8)


@wrong("A.bug8", "losses_are_plain_numbers")
def detached_tensors(model, loader, optimizer, num_epochs):
    def kept(model, features, labels, loss):
        return loss.detach()

    return trained(note=kept)(model, loader, optimizer, num_epochs)


# A.bug3

wrong("A.bug3", "optimizer_has_the_parameters")(zoo.prepare_3)


def with_new_layer(model, num_classes):
    model.layers[-1] = nn.Linear(20, num_classes)
    return model


@wrong("A.bug3", "there_is_a_logit_for_each_class")
def layer_for_two_classes(model, num_classes, lr):
    return torch.optim.SGD(with_new_layer(model, 2).parameters(), lr=lr)


@wrong("A.bug3", "there_is_a_logit_for_each_class")
def not_replaced(model, num_classes, lr):
    return torch.optim.SGD(model.parameters(), lr=lr)


@wrong("A.bug3", "hidden_layers_stay")
def everything_anew(model, num_classes, lr):
    model.layers = NeuralNetwork(2, num_classes).layers
    return torch.optim.SGD(model.parameters(), lr=lr)


@wrong("A.bug3", "optimizer_has_the_parameters")
def new_layer_alone(model, num_classes, lr):
    return torch.optim.SGD(with_new_layer(model, num_classes).layers[-1].parameters(), lr=lr)


@wrong("A.bug3", "optimizer_has_the_parameters")
def old_and_new(model, num_classes, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    new = with_new_layer(model, num_classes).layers[-1]
    optimizer.add_param_group({"params": list(new.parameters())})
    return optimizer


@wrong("A.bug3", "rate_is_as_asked_for")
def rate_forgotten(model, num_classes, lr):
    return torch.optim.SGD(with_new_layer(model, num_classes).parameters())


# A.bug4

wrong("A.bug4", "parameters_are_found")(zoo.Network4)


class Listed(zoo.Network4):
    """The right answer, if nothing is overridden."""

    def __init__(self, num_inputs, num_outputs):
        super().__init__(num_inputs, num_outputs)
        self.layers = nn.ModuleList(self.layers)


@wrong("A.bug4", "parameters_are_found")
class OutputAlone(zoo.Network4):
    def __init__(self, num_inputs, num_outputs):
        super().__init__(num_inputs, num_outputs)
        self.output = self.layers[-1]


@wrong("A.bug4", "logits_are_those_of_the_appendix")
class WithoutReLU(Listed):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@wrong("A.bug4", "logits_are_those_of_the_appendix")
class ReLUAtTheEnd(Listed):
    def forward(self, x):
        return torch.relu(super().forward(x))


# A.bug5

wrong("A.bug5", "each_example_counts_the_same")(zoo.accuracy_5)


def right_and_all(model, loader):
    model.eval()
    right = sum((model(x).argmax(dim=1) == y).sum().item() for x, y in loader)
    return right, sum(len(y) for _, y in loader)


@wrong("A.bug5", "all_and_none_are_one_and_zero")
def percent(model, loader):
    right, count = right_and_all(model, loader)
    return 100.0 * right / count


@wrong("A.bug5", "all_and_none_are_one_and_zero")
def in_training_mode(model, loader):
    right = sum((model(x).argmax(dim=1) == y).sum().item() for x, y in loader)
    return right / sum(len(y) for _, y in loader)


@wrong("A.bug5", "equal_batches_are_right")
def whole_batches_alone(model, loader):
    model.eval()
    right = sum(bool((model(x).argmax(dim=1) == y).all()) for x, y in loader)
    return right / len(loader)


@wrong("A.bug5", "each_example_counts_the_same")
def as_if_all_were_as_large_as_the_first(model, loader):
    right, _ = right_and_all(model, loader)
    return right / (len(loader) * len(loader[0][1]))


# A.bug6

wrong("A.bug6", "rows_keep_their_labels")(zoo.shuffled_6)


@wrong("A.bug6", "rows_keep_their_labels")
def labels_alone(features, labels):
    return features, labels[torch.randperm(len(labels))]


@wrong("A.bug6", "the_order_changes")
def turned_round(features, labels):
    return features.flip(0), labels.flip(0)


@wrong("A.bug6", "the_order_changes")
def seeded_in_the_function(features, labels):
    torch.default_generator.manual_seed(123)
    order = torch.randperm(len(features))
    return features[order], labels[order]


@wrong("A.bug6", "no_label_is_lost")
def drawn_with_repetition(features, labels):
    order = torch.randint(len(features), (len(features),))
    return features[order], labels[order]


# A.bug7

wrong("A.bug7", "perfection_costs_nothing")(zoo.loss_7)


@wrong("A.bug7", "loss_is_a_number")
def not_averaged(model, features, targets):
    return (model(features).squeeze(1) - targets) ** 2


@wrong("A.bug7", "perfection_costs_nothing")
def the_other_one_unsqueezed(model, features, targets):
    return ((model(features) - targets.unsqueeze(0)) ** 2).mean()


@wrong("A.bug7", "loss_is_the_mean_of_squares")
def summed(model, features, targets):
    return ((model(features).squeeze(1) - targets) ** 2).sum()


@wrong("A.bug7", "loss_is_the_mean_of_squares")
def signs_cancel(model, features, targets):
    return (model(features).squeeze(1) - targets).mean() ** 2
