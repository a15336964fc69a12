"""A module of PyTorch as an ONNX file without its weights. Needs torch and onnxscript.

PyTorch's own exporter does it: `torch.export` traces the module on tensors that have shapes and no values, and so reads no
weight, of a module on the meta device either; `torch.onnx` translates what was traced.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence

from . import _native

if typing.TYPE_CHECKING:
    import onnx_ir
    import torch

    #: An argument of a module's call: a tensor, of which only shape and type are looked at, or the shape of one.
    Argument = torch.Tensor | Sequence[int]

#: ONNX's version that is the first to have attention as one operator, and group normalisation with its weights.
OPSET = 23

#: Values of a constant that is kept whole: shapes are made of such.
VALUES_MAX = 64


def exported(module: torch.nn.Module, arguments: Sequence[Argument], keywords: Mapping[str, Argument]) -> bytes:
    """The ONNX file of a module's call in inference, its weights left out. Raises `Error` with the submodule and the line of
    its code where the call cannot be traced or has an operator that ONNX doesn't."""
    torch, ir = _packages()
    if not isinstance(module, torch.nn.Module):
        raise _native.Error(f"a torch.nn.Module is wanted, and this is a {type(module).__name__}")
    own = type(module).__name__
    like = next((it for it in itertools.chain(module.parameters(), module.buffers()) if it.is_floating_point()), None)

    def tensor(argument: Argument) -> torch.Tensor:
        if isinstance(argument, torch.Tensor):
            return argument
        options = {} if like is None else {"dtype": like.dtype, "device": like.device}
        return torch.empty(tuple(argument), **options)

    tensors = tuple(tensor(argument) for argument in arguments)
    named = {name: tensor(argument) for name, argument in keywords.items()}
    with _evaluated(module), _quiet():
        try:
            program = torch.export.export(module, tensors, named, strict=False)
        except Exception as error:
            raise _native.Error(f"`{own}` cannot be traced{_where(module, error)}: {_told(error)}") from error
        try:
            # Not optimised: batch normalisation stays apart from convolutions, as PyTorch runs it.
            translated = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, opset_version=OPSET)
        except Exception as error:
            raise _native.Error(f"`{own}` cannot be translated to ONNX: {_told(_first(error))}") from error
        return _without_weights(translated.model, ir)


def _packages() -> tuple[typing.Any, typing.Any]:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  the exporter's own requirement, which it names less clearly
        import torch
    except ModuleNotFoundError as error:
        raise _native.Error(
            f"`{error.name}` is not installed: a network from a module needs torch 2.9 or later and onnxscript"
        ) from error
    return torch, onnx_ir


@contextlib.contextmanager
def _evaluated(module: torch.nn.Module) -> Iterator[None]:
    """The module in inference, and afterwards as it was. Operators that stand for a whole block of a transformer, which no
    exporter knows, are off meanwhile."""
    import torch

    training = [own for own in module.modules() if own.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        module.eval()
        yield
    finally:
        for own in training:
            own.training = True
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter prints and logs on its way; what goes wrong is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        said = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _where(module: torch.nn.Module, error: BaseException) -> str:
    """The innermost of the module's own parts that was being called, and the line of its code."""
    names = {id(own): name for name, own in module.named_modules()}
    place = ""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        own = next((frame.f_locals.get(name) for name in frame.f_code.co_varnames[:1]), None)
        if id(own) in names and frame.f_code.co_name == "forward":
            called = f"`{names[id(own)]}` ({type(own).__name__})" if names[id(own)] else "its own code"
            place = f" in {called}, at {frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _told(error: BaseException) -> str:
    """The first line of an error, and for one of PyTorch's what it means."""
    lines = str(error).strip().splitlines()
    told = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if "data-dependent" not in told:
        return told
    return (
        f"{told.partition(' (unhinted')[0]}: what is computed depends on the values of tensors, and a network computes the "
        "same for all of them; predict each way apart"
    )


def _without_weights(model: onnx_ir.Model, ir: typing.Any) -> bytes:
    """The file of a model whose larger constants are said to lie elsewhere."""
    for name, value in model.graph.initializers.items():
        held = value.const_value
        on_meta = getattr(getattr(held, "raw", None), "is_meta", False)
        if held is not None and (on_meta or held.size > VALUES_MAX):
            value.const_value = ir.ExternalTensor("weights", None, None, held.dtype, shape=held.shape, name=name)
    return typing.cast(bytes, ir.serde.serialize_model(model).SerializeToString())
