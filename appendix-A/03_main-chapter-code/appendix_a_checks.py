"""What the answers to appendix A's exercises must do: read by `companion.exercises`.

A.3 and A.4 are the book's exercises (its A.1 and A.2 are about installing), the others this
repository's; A.bug1 to A.bug8 are the specimens of bug-zoo.ipynb. Whoever wants to solve them had
better not read on: the hints are here.

Shapes: B batch, N examples, I inputs, O outputs (classes).
"""

import copy
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from companion.exercises import Class, Exercise, Function, must
from toy_network import NeuralNetwork

BATCHES = (  # of three, two and one examples
    (torch.tensor([[-1.2, 3.1], [2.3, -1.1], [-0.5, 2.6]]), torch.tensor([0, 1, 0])),
    (torch.tensor([[2.7, -1.5], [-0.9, 2.9]]), torch.tensor([1, 0])),
    (torch.tensor([[-0.8, 2.8]]), torch.tensor([0])),
)


def are_close(a, b, tolerance=1e-5):
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)


def sgd_by_hand(model, batches, lr, num_epochs):
    """Train without an optimizer; the loss before each step."""
    losses = []
    for _ in range(num_epochs):
        for features, labels in batches:
            loss = F.cross_entropy(model(features), labels)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= lr * gradient
            losses.append(loss.item())
    return losses


class Timed:
    """Something to measure: its first call sleeps `first` seconds, the others `others`."""

    def __init__(self, first, others):
        self.first, self.others = first, others
        self.durations = []

    def __call__(self):
        start = time.perf_counter()
        time.sleep(self.others if self.durations else self.first)
        self.durations.append(time.perf_counter() - start)


# The book's exercises


class CountTheParameters(Exercise):
    number = "A.3"
    title = "parameters of the small network"
    answer = int
    hints = (
        "Section A.5 counts those of a network with 50 inputs and 3 outputs.",
        "By hand: a layer from n to m has n * m weights and m biases, and there are three layers: "
        "2 to 30, 30 to 20, 20 to 2.",
    )

    @must("It must be the number of all weights and biases of `NeuralNetwork(2, 2)`.")
    def weights_and_biases_are_counted(self, count):
        return count == (2 * 30 + 30) + (30 * 20 + 20) + (20 * 2 + 2)


class TimeAFunction(Exercise):
    number = "A.4"
    title = "time a matrix product"
    answer = Function("function, repetitions", returns=float)
    hints = (
        "`time.perf_counter()` gives the time in seconds, with the zero somewhere; only the "
        "difference of two of them means something.",
        "The first call often does work that later ones find done. Make a call before you look at "
        "the clock.",
        "Clock, a loop of `repetitions` calls, clock again; divide the difference by "
        "`repetitions`.",
    )

    @must(
        "The function must be called `repetitions` times, and once before the measurement.",
        on=[3, 10],
    )
    def there_are_enough_calls(self, measure, repetitions):
        timed = Timed(0.0, 0.0)
        measure(timed, repetitions)
        return len(timed.durations) > repetitions

    @must("The result must be the seconds of one call. (Here each takes 10 ms or more.)", on=[5])
    def result_is_seconds_per_call(self, measure, repetitions):
        timed = Timed(0.01, 0.01)
        seconds = measure(timed, repetitions)
        mean = sum(timed.durations) / len(timed.durations)
        return 0.9 * min(timed.durations) <= seconds <= 2 * mean + 0.01

    @must(
        "A first call that takes longer must not be in the result. (Here it takes 200 ms, the "
        "others 2 ms.)",
        on=[4],
    )
    def the_first_call_does_not_count(self, measure, repetitions):
        timed = Timed(0.2, 0.002)
        seconds = measure(timed, repetitions)
        later = timed.durations[1:]
        return seconds <= 2 * sum(later) / len(later) + 0.01


# This repository's exercises


class GradientsByHand(Exercise):
    number = "A.5"
    title = "gradients without autograd"
    answer = Function("x1, w1, b, y", returns=tuple[float, float])
    hints = (
        "The chain rule: the slope of the loss at `a`, times the slope of `a` at `z`, times the "
        "slope of `z` at `w1` or at `b`.",
        "The first two together become very short: they are `a - y`.",
        "`z` is `x1 * w1 + b`. If `w1` grows by 1, `z` grows by `x1`; if `b` does, by 1.",
    )

    def _is_autograds(self, gradients, x1, w1, b, y):
        weight, bias = torch.tensor([w1, b], dtype=torch.float64).requires_grad_().unbind()
        loss = F.binary_cross_entropy_with_logits(
            x1 * weight + bias, torch.tensor(y, dtype=torch.float64)
        )
        expected = torch.autograd.grad(loss, (weight, bias))
        found = gradients(x1, w1, b, y)
        return all(
            abs(value - wanted.item()) < 1e-5 for value, wanted in zip(found, expected, strict=True)
        )

    @must(
        "With the numbers of section A.4, the gradients must be -0.0898 and -0.0817.",
        on=[(1.1, 2.2, 0.0, 1.0)],
    )
    def sections_numbers_come_out(self, gradients, x1, w1, b, y):
        return self._is_autograds(gradients, x1, w1, b, y)

    @must(
        "With other inputs and a right answer of 1, they must be those of PyTorch.",
        on=[(0.5, -1.0, 0.3, 1.0), (-2.0, 0.7, 0.1, 1.0)],
    )
    def other_numbers_come_out(self, gradients, x1, w1, b, y):
        return self._is_autograds(gradients, x1, w1, b, y)

    @must(
        "That must hold as well if the right answer is 0.",
        on=[(1.1, 2.2, 0.0, 0.0), (-2.0, 0.7, 0.1, 0.0)],
    )
    def the_other_class_comes_out(self, gradients, x1, w1, b, y):
        return self._is_autograds(gradients, x1, w1, b, y)


class StepByHand(Exercise):
    number = "A.6"
    title = "a step without an optimizer"
    answer = Function("model, lr", returns=nn.Module)
    hints = (
        "For each parameter: take `lr * parameter.grad` away. This is no part of the network's "
        "calculation, so it must not enter the graph: `with torch.no_grad():`.",
        "Change the parameters in place (`parameter -= ...`). `parameter = parameter - ...` makes "
        "a new tensor, which the model does not know.",
        "A parameter that was not used, or is frozen, has `None` in `.grad`: leave it out. Set "
        "`.grad` to `None` at the end, as `zero_grad()` does.",
    )

    def _stepped(self, step, lr):
        """The model before, its gradients, what the answer returns, and the model after."""
        model = NeuralNetwork(2, 2)
        F.cross_entropy(model(BATCHES[0][0]), BATCHES[0][1]).backward()
        before = copy.deepcopy(model)
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        return before, gradients, step(model, lr), model

    @must("It must be the model itself that comes back, changed.", on=[0.1])
    def the_model_itself_is_changed(self, step, lr):
        before, _, returned, model = self._stepped(step, lr)
        return returned is model and not all(
            torch.equal(old, new)
            for old, new in zip(before.parameters(), model.parameters(), strict=True)
        )

    @must("Each parameter must lose `lr` times its gradient.", on=[0.1, 0.5])
    def parameters_lose_their_share(self, step, lr):
        before, gradients, _, model = self._stepped(step, lr)
        return all(
            are_close(new, old - lr * gradient)
            for old, gradient, new in zip(
                before.parameters(), gradients, model.parameters(), strict=True
            )
        )

    @must("A parameter without a gradient must stay as it is.", on=[0.1])
    def frozen_parameters_stay(self, step, lr):
        model = NeuralNetwork(2, 2)
        model.layers[0].requires_grad_(False)
        F.cross_entropy(model(BATCHES[0][0]), BATCHES[0][1]).backward()
        before = model.layers[0].weight.clone()
        try:
            step(model, lr)
        except (TypeError, AttributeError):  # None has no arithmetic
            return False
        return torch.equal(before, model.layers[0].weight)

    @must("Afterwards the gradients must be cleared: None, or 0.", on=[0.1])
    def gradients_are_cleared(self, step, lr):
        _, _, _, model = self._stepped(step, lr)
        return all(p.grad is None or not p.grad.any() for p in model.parameters())

    @must("The parameters must still be trainable: another step must be possible.", on=[0.1])
    def another_step_is_possible(self, step, lr):
        _, _, _, model = self._stepped(step, lr)
        return all(p.requires_grad and p.is_leaf for p in model.parameters())


class SharesOfEqualSize(Exercise):
    number = "A.7"
    title = "shares for the processes"
    answer = Function("num_examples, world_size, rank", returns=list[int])
    hints = (
        "How many does each process need? As many as it takes to have room for all examples: "
        "divide, and round up.",
        "Write down the numbers 0 to `num_examples` - 1, and start again from 0 until there are "
        "enough for all processes. `number % num_examples` does that.",
        "Dealt out like cards, process `rank` gets the places `rank`, `rank + world_size`, "
        "`rank + 2 * world_size`, ...",
    )
    CASES = ((6, 3), (5, 2), (5, 3), (7, 4), (1, 1), (2, 5))

    def _shares(self, share, num_examples, world_size):
        return [share(num_examples, world_size, rank) for rank in range(world_size)]

    @must("All processes must get equally many examples.", on=CASES)
    def shares_are_of_equal_size(self, share, num_examples, world_size):
        return len({len(part) for part in self._shares(share, num_examples, world_size)}) == 1

    @must("Examples are numbered from 0 to `num_examples` - 1; there are no others.", on=CASES)
    def examples_exist(self, share, num_examples, world_size):
        parts = self._shares(share, num_examples, world_size)
        return all(0 <= example < num_examples for part in parts for example in part)

    @must("No example may be left out.", on=CASES)
    def nobody_is_left_out(self, share, num_examples, world_size):
        parts = self._shares(share, num_examples, world_size)
        return {example for part in parts for example in part} == set(range(num_examples))

    @must("No more examples may come twice than equal shares need.", on=CASES)
    def no_more_than_needed(self, share, num_examples, world_size):
        parts = self._shares(share, num_examples, world_size)
        return len(parts[0]) == -(-num_examples // world_size)


# The bug zoo


class ASickTraining(Exercise):
    """What a training function must do, and where the solutions of the zoo are."""

    solution = 'exercise-solutions.ipynb, beside this notebook, under "The bug zoo"'


class ATrainingLoop(ASickTraining):
    """Rules that three specimens share."""

    answer = Function("model, loader, optimizer, num_epochs", returns=list)

    def _train(self, train, lr, num_epochs):
        """What the answer returns, the state dicts before and after, and those of a right one."""
        model = NeuralNetwork(2, 2)
        expected_model, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        losses = train(model, list(BATCHES), optimizer, num_epochs)
        expected = sgd_by_hand(expected_model, BATCHES, lr, num_epochs)
        return losses, before, model.state_dict(), expected, expected_model.state_dict()

    @must("There must be a loss for each batch of each epoch.", on=[(0.1, 1), (0.1, 3)])
    def each_batch_has_a_loss(self, train, lr, num_epochs):
        return len(self._train(train, lr, num_epochs)[0]) == len(BATCHES) * num_epochs

    @must("The training must change the weights.", on=[(0.5, 2)])
    def weights_change(self, train, lr, num_epochs):
        _, before, after, _, _ = self._train(train, lr, num_epochs)
        return any(not torch.equal(before[name], after[name]) for name in before)

    @must(
        "Each step must follow the gradient of its own batch, and of nothing else.",
        on=[(0.1, 1), (0.5, 3)],
    )
    def steps_follow_their_own_batch(self, train, lr, num_epochs):
        _, _, after, _, expected = self._train(train, lr, num_epochs)
        return all(are_close(after[name], expected[name]) for name in expected)

    @must("The losses must be those of the batches, each before its step.", on=[(0.5, 2)])
    def losses_are_those_of_the_batches(self, train, lr, num_epochs):
        losses, _, _, expected, _ = self._train(train, lr, num_epochs)
        found = torch.stack([torch.as_tensor(loss).detach().float() for loss in losses])
        return are_close(found, torch.tensor(expected))


class BugSummedUp(ATrainingLoop):
    number = "A.bug1"
    title = "a training that overshoots"
    hints = (
        "The first step is right, all later ones are not. Print the gradient before each step, and "
        "beside it that of the batch alone.",
        "`backward()` adds to what is in `.grad` already.",
        "`optimizer.zero_grad()` is missing, before `loss.backward()`.",
    )


class BugThrownAway(ATrainingLoop):
    number = "A.bug2"
    title = "a training that changes nothing"
    hints = (
        "All the lines are there. What is in `.grad` when `optimizer.step()` is called?",
        "`zero_grad()` throws away what `backward()` has found, before `step()` has used it.",
        "Swap two lines: `zero_grad()` comes before `backward()`, or after `step()`.",
    )


class BugNewLayer(ASickTraining):
    number = "A.bug3"
    title = "a layer that does not learn"
    answer = Function("model, num_classes, lr", returns=torch.optim.Optimizer)
    hints = (
        "An optimizer knows the parameters that it was given, no others. When was it given them?",
        "When the optimizer is made, the new layer does not exist.",
        "Make the optimizer last.",
    )

    def _prepared(self, prepare, num_classes, lr):
        model = NeuralNetwork(2, 2)
        before = copy.deepcopy(model.state_dict())
        return prepare(model, num_classes, lr), model, before

    @must("The network must give a logit for each of the new classes.", on=[(5, 0.1), (3, 0.5)])
    def there_is_a_logit_for_each_class(self, prepare, num_classes, lr):
        _, model, _ = self._prepared(prepare, num_classes, lr)
        return model(BATCHES[0][0]).shape == (3, num_classes)

    @must("The hidden layers must keep their weights.", on=[(5, 0.1)])
    def hidden_layers_stay(self, prepare, num_classes, lr):
        _, model, before = self._prepared(prepare, num_classes, lr)
        names = ("layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias")
        after = model.state_dict()
        return all(torch.equal(before[name], after[name]) for name in names)

    @must(
        "The optimizer must have all parameters that the network has, and no others.",
        on=[(5, 0.1)],
    )
    def optimizer_has_the_parameters(self, prepare, num_classes, lr):
        optimizer, model, _ = self._prepared(prepare, num_classes, lr)
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return known == {id(p) for p in model.parameters()}

    @must("The learning rate must be `lr`, for all of them.", on=[(5, 0.1), (3, 0.5)])
    def rate_is_as_asked_for(self, prepare, num_classes, lr):
        optimizer, _, _ = self._prepared(prepare, num_classes, lr)
        return all(group["lr"] == lr for group in optimizer.param_groups)


class BugPlainList(ASickTraining):
    number = "A.bug4"
    title = "a network without parameters"
    answer = Class(nn.Module, "num_inputs, num_outputs")
    hints = (
        "A module finds layers that are its attributes. Is a Python list a layer?",
        "PyTorch has a list that is a module.",
        "`torch.nn.ModuleList([...])`, or `torch.nn.Sequential(...)` with the ReLUs in it.",
    )

    @must("It must have the parameters that `NeuralNetwork` has.", on=[(2, 2), (50, 3)])
    def parameters_are_found(self, network_class, num_inputs, num_outputs):
        found = [p.shape for p in network_class(num_inputs, num_outputs).parameters()]
        return found == [p.shape for p in NeuralNetwork(num_inputs, num_outputs).parameters()]

    @must("With equal weights, its logits must be those of `NeuralNetwork`.", on=[(2, 2), (50, 3)])
    def logits_are_those_of_the_appendix(self, network_class, num_inputs, num_outputs):
        network = network_class(num_inputs, num_outputs)
        appendix = NeuralNetwork(num_inputs, num_outputs)
        with torch.no_grad():
            for own, wanted in zip(network.parameters(), appendix.parameters(), strict=True):
                own.copy_(wanted)
        x = torch.randn(4, num_inputs)
        return are_close(network(x), appendix(x))


class SignModel(nn.Module):
    """Predicts class 1 where the feature is positive, in evaluation mode; else always class 0."""

    def forward(self, x):
        """(B, 1) -> (B, 2)."""
        score = -x.abs() if self.training else x
        return torch.cat([-score, score], dim=1)


class BugMeanOfMeans(ASickTraining):
    number = "A.bug5"
    title = "an accuracy that depends on the batches"
    answer = Function("model, loader", returns=float)
    hints = (
        "Two batches, of four examples and of one: what does the one example count?",
        "A mean of shares gives each batch the same weight, however many examples it has.",
        "Sum up the right predictions, sum up the examples, and divide at the end.",
    )
    RIGHT, WRONG = (1.0, 1), (-1.0, 1)  # feature and label

    def _accuracy(self, measure, *batches):
        loader = [
            (torch.tensor([[x] for x, _ in batch]), torch.tensor([y for _, y in batch]))
            for batch in batches
        ]
        return measure(SignModel(), loader)

    @must("It must be 1 if every prediction is right, and 0 if none is.", on=[2])
    def all_and_none_are_one_and_zero(self, measure, size):
        right, wrong = [self.RIGHT] * size, [self.WRONG] * size
        return (self._accuracy(measure, right, right), self._accuracy(measure, wrong)) == (1, 0)

    @must("With equally large batches, it must be the share of right predictions.", on=[4])
    def equal_batches_are_right(self, measure, size):
        batch = [self.RIGHT] + [self.WRONG] * (size - 1)
        return abs(self._accuracy(measure, batch, batch) - 1 / size) < 1e-6

    @must("Every example must count the same, also those of a smaller batch.", on=[4])
    def each_example_counts_the_same(self, measure, size):
        found = self._accuracy(measure, [self.RIGHT] * size, [self.WRONG])
        return abs(found - size / (size + 1)) < 1e-6


class BugPairsParted(ASickTraining):
    number = "A.bug6"
    title = "a shuffle that loses what belongs together"
    answer = Function("features, labels", returns=tuple[torch.Tensor, torch.Tensor])
    hints = (
        "How many times are the dice thrown?",
        "Two calls of `randperm` give two orders. The examples need one.",
        "`order = torch.randperm(len(features))`, and index both with it.",
    )
    ROWS = (torch.arange(20.0).reshape(10, 2), torch.arange(10))

    @must("All labels must still be there, once each.", on=[ROWS])
    def no_label_is_lost(self, shuffle, features, labels):
        return torch.equal(shuffle(features, labels)[1].sort().values, labels)

    @must("The order must be another one, and another one each time.", on=[ROWS])
    def the_order_changes(self, shuffle, features, labels):
        orders = [tuple(shuffle(features, labels)[1].tolist()) for _ in range(3)]
        return len({*orders, tuple(labels.tolist())}) == 4

    @must("Each row must keep its label. (Row i of this case has label i.)", on=[ROWS])
    def rows_keep_their_labels(self, shuffle, features, labels):
        shuffled, of_rows = shuffle(features, labels)
        return torch.equal(shuffled, features[of_rows])


class BugBroadcast(ASickTraining):
    number = "A.bug7"
    title = "a loss that is never 0"
    answer = Function("model, features, targets", returns=torch.Tensor)
    hints = (
        "Print the shapes of the predictions, of the targets, and of their difference.",
        "(B, 1) minus (B,) is (B, B): every prediction minus every target.",
        "Give both the same shape: `model(features).squeeze(1)`, or `targets.unsqueeze(1)`.",
    )
    CASE = (torch.tensor([[1.0], [2.0], [4.0]]),)

    @must("The loss must be a single number, a tensor without dimensions.", on=CASE)
    def loss_is_a_number(self, loss, features):
        return loss(nn.Identity(), features, features[:, 0]).shape == ()

    @must("If every prediction is its target, the loss must be 0.", on=CASE)
    def perfection_costs_nothing(self, loss, features):
        return loss(nn.Identity(), features, features[:, 0]) == 0

    @must(
        "The loss must be the mean of the squared differences. (Here they are 1, 4 and 9.)",
        on=CASE,
    )
    def loss_is_the_mean_of_squares(self, loss, features):
        targets = features[:, 0] + torch.tensor([1.0, -2.0, 3.0])
        return are_close(loss(nn.Identity(), features, targets), torch.tensor(14 / 3))


class BugKeptGraphs(ATrainingLoop):
    number = "A.bug8"
    title = "a training that fills the memory"
    hints = (
        "Print one of the losses. What does it carry about with it?",
        "A loss with a `grad_fn` keeps its graph, and the graph keeps what each layer computed.",
        "`loss.item()` is the number alone.",
    )

    @must("The losses must be plain numbers, without their graphs.", on=[(0.1, 1)])
    def losses_are_plain_numbers(self, train, lr, num_epochs):
        return all(isinstance(loss, float) for loss in self._train(train, lr, num_epochs)[0])
