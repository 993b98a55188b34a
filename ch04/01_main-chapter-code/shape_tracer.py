"""Walk a batch through a model and write down every module's shapes and parameters.

    trace = trace_shapes(GPTModel(cfg), ids)
    print(trace)                         # the whole walk, one line for each call
    trace.to_depth(1)                    # the outermost modules only
    trace.part("trf_blocks.0")           # what happens inside one of them
    expandable(trace)                    # the same in JupyterLab, to open and close

Works with any `torch.nn.Module`, and without memory for a model on the "meta" device.
"""

import html
from dataclasses import dataclass, replace

import torch

COLUMNS = ("module", "kind", "input", "output", "parameters")
TO_THE_RIGHT = {"parameters"}


@dataclass(frozen=True)
class Call:
    """One call of a module's forward pass.

    Attributes:
        name: as in the model's `state_dict`; empty for the model itself.
        kind: name of its class.
        depth: how many calls it stands inside of.
        input, output: shapes of the tensors that went in and came out.
        parameters: how many the module holds, with all that it contains. Modules that share
            parameters, and a module that is called twice, each show them.
    """

    name: str
    kind: str
    depth: int
    input: tuple = ()
    output: tuple = ()
    parameters: int = 0

    def cells(self):
        """The call as texts, in the order of `COLUMNS`."""
        shapes = (", ".join(map(str, shapes)) or "-" for shapes in (self.input, self.output))
        return (self.name or "(the model)", self.kind, *shapes, f"{self.parameters:,}")


class ShapeTrace:
    """The calls of one forward pass, in order; a table when printed or shown in a notebook."""

    def __init__(self, calls):
        self.calls = list(calls)

    def to_depth(self, depth):
        """The trace without the calls that stand inside of more than `depth` others."""
        return ShapeTrace(call for call in self.calls if call.depth <= depth)

    def part(self, name):
        """The trace of the module of that name and of what it contains.

        Raises:
            KeyError: no module of that name was called.
        """
        inside = [call for call in self.calls if f"{call.name}.".startswith(f"{name}.")]
        if not inside:
            known = ", ".join(dict.fromkeys(call.name for call in self.to_depth(1).calls[1:]))
            raise KeyError(f"No module {name!r} was called. The outermost ones are: {known}.")
        top = min(call.depth for call in inside)
        return ShapeTrace(replace(call, depth=call.depth - top) for call in inside)

    def lines(self):
        """The table's lines, its header first, with aligned columns."""
        rows = [COLUMNS, *(call.cells() for call in self.calls)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(_aligned, row, COLUMNS, widths)).rstrip() for row in rows]

    def __repr__(self):
        return "\n".join(self.lines())

    def _repr_html_(self):
        rows = [_html_row("th", COLUMNS), *(_html_row("td", call.cells()) for call in self.calls)]
        return f"<table>{''.join(rows)}</table>"


def trace_shapes(model, *inputs):
    """Run `model(*inputs)` once, without gradients and dropout, and return its `ShapeTrace`.

    The model is left as it was found, also where it raises: its mode, its hooks, its gradients,
    and, as dropout is off, the state of the random number generator.

    Raises:
        RuntimeError: the model raised; says in which module, and given which shapes.
    """
    calls = []
    open_calls = []  # places in `calls` of the modules that have not returned yet

    def enter(name, module, args, kwargs):
        calls.append(
            Call(
                name,
                kind=type(module).__name__,
                depth=len(open_calls),
                input=tuple(_shapes((args, kwargs))),
                parameters=sum(parameter.numel() for parameter in module.parameters()),
            )
        )
        open_calls.append(len(calls) - 1)

    def leave(name, output):
        place = open_calls.pop()
        while calls[place].name != name:  # a call whose error the model caught by itself
            place = open_calls.pop()
        calls[place] = replace(calls[place], output=tuple(_shapes(output)))

    modes = {module: module.training for module in model.modules()}
    hooks = []
    try:
        for name, module in model.named_modules():
            hooks += [
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, name=name: enter(name, module, args, kwargs),
                    with_kwargs=True,
                ),
                module.register_forward_hook(
                    lambda module, args, output, name=name: leave(name, output)
                ),
            ]
        model.eval()
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        raise RuntimeError(_what_happened(calls, open_calls, error)) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return ShapeTrace(calls)


def expandable(trace):
    """The trace as an ipywidgets box in which a call's inner calls open and close by a click."""
    import ipywidgets

    header, *lines = trace.lines()
    depths = [call.depth for call in trace.calls]
    has_inner = [later > depth for depth, later in zip(depths, [*depths[1:], 0], strict=True)]
    open_calls = {0}
    shown = {}  # place in the trace -> its row, made when it is first seen
    box = ipywidgets.VBox()

    def text(line):
        return ipywidgets.HTML(f"<pre style='margin: 0'>{html.escape(line)}</pre>")

    def beside(*parts):
        return ipywidgets.HBox(parts, layout=ipywidgets.Layout(align_items="center"))

    def row(place):
        button = ipywidgets.Button(
            icon="caret-down" if place in open_calls else "caret-right",
            tooltip="open or close",
            layout=ipywidgets.Layout(
                width="32px", visibility="visible" if has_inner[place] else "hidden"
            ),
        )

        def toggle(_):
            open_calls.symmetric_difference_update({place})
            button.icon = "caret-down" if place in open_calls else "caret-right"
            refresh()

        button.on_click(toggle)
        return beside(button, text(lines[place]))

    def refresh():
        visible, closed_at = [], None  # depth of the closed call that hides what follows
        for place, depth in enumerate(depths):
            if closed_at is not None and depth > closed_at:
                continue
            closed_at = None if place in open_calls else depth
            visible.append(shown.get(place) or shown.setdefault(place, row(place)))
        box.children = [beside(spacer, text(header)), *visible]

    spacer = ipywidgets.HTML(layout=ipywidgets.Layout(width="32px"))
    refresh()
    return box


def _shapes(value):
    """The shape of every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield tuple(value.shape)
    elif isinstance(value, dict):
        yield from _shapes(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _shapes(item)


def _what_happened(calls, open_calls, error):
    """One sentence on where the walk ended."""
    if not open_calls:
        return f"The model raised {type(error).__name__} before its first module: {error}"
    call = calls[open_calls[-1]]
    where = f"{call.name} ({call.kind})" if call.name else f"The model ({call.kind})"
    return f"{where}, given {call.cells()[2]}, raised {type(error).__name__}: {error}"


def _aligned(text, column, width):
    return text.rjust(width) if column in TO_THE_RIGHT else text.ljust(width)


def _html_row(tag, texts):
    cells = (
        f"<{tag} style='text-align: {'right' if column in TO_THE_RIGHT else 'left'}'>"
        f"{html.escape(text)}</{tag}>"
        for text, column in zip(texts, COLUMNS, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"
