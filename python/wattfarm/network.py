"""Networks: built in, from files, or of layers by hand."""

from __future__ import annotations

import json
import os
import pathlib
import typing
from collections.abc import Iterable, Mapping, Sequence

from . import _native

if typing.TYPE_CHECKING:
    import torch

    from ._torch import Argument

#: A field of a layer: a size, sizes, a switch or a word.
Field = int | bool | str | Sequence[int]


class LayerDescription(typing.TypedDict):
    """A layer and what it has to do for the whole batch."""

    name: str
    hash: str
    #: The kind with its fields, as `wattfarm networks --kinds` lists them.
    layer: dict[str, typing.Any]
    flops: int
    bytes: int
    parameters: int


class Network:
    """A network of layers for one batch. Made by the class methods."""

    def __init__(self, native: _native.Network) -> None:
        self._native = native

    @classmethod
    def read(
        cls,
        source: str | os.PathLike[str] | bytes | typing.BinaryIO,
        *,
        batch: int | None = None,
        item: Sequence[int] | None = None,
        inputs: Mapping[str, Sequence[int]] | None = None,
        dtype: str | None = None,
        name: str | None = None,
    ) -> Network:
        """An ONNX file (its path, its bytes, or the file opened for reading bytes), Caffe's prototxt (its path), or a built-in
        network's name.

        `item` is the shape of one item of the first input, `inputs` has that of named ones or the size of a named axis:
        what a file leaves open, or other sizes than it has. `dtype` is a file's own, or f32, if left out; `name` is its path's.
        """
        named = [(name, list(shape)) for name, shape in (inputs or {}).items()]
        shape = None if item is None else list(item)
        if not isinstance(source, str | os.PathLike):
            return cls(_native.Network.onnx(source, name, batch, shape, named, dtype))
        match pathlib.Path(source).suffix:
            case ".onnx":
                native = _native.Network.onnx(source, name, batch, shape, named, dtype)
            case ".prototxt":
                native = _native.Network.caffe(source, name, batch, shape, named, dtype)
            case _ if item is not None or inputs:
                raise _native.Error(f"`{source}` is a built-in network: its input has a size of its own")
            case _:
                native = _native.Network.built_in(str(source), batch, dtype or "f32")
        return cls(native)

    @classmethod
    def from_torch(
        cls,
        module: torch.nn.Module,
        *arguments: Argument,
        keywords: Mapping[str, Argument] | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> Network:
        """A module of PyTorch, called in inference with these arguments: tensors, of which only shape and type are looked at,
        or shapes alone, batch first, for tensors of the module's own type. The first is the network's input.

            Network.from_torch(torchvision.models.resnet50(weights=None), (8, 3, 224, 224))

        PyTorch's own exporter to ONNX traces the module without values: no weight is read, and one whose weights are on the
        meta device does as well. Needs torch and onnxscript. Raises `Error` where the module cannot be traced, for one because
        what it computes depends on values, and says in which part of it. `dtype` is that of its weights if left out.
        """
        from . import _torch

        file = _torch.exported(module, arguments, keywords or {})
        return cls.read(file, name=name or type(module).__name__, dtype=dtype)

    @classmethod
    def of_layers(cls, name: str, layers: Iterable[tuple[str, Mapping[str, Field]]]) -> Network:
        """Layers by hand: each a name, and a kind with its fields (`wattfarm networks --kinds` lists them).

            Network.of_layers("mlp", [("fc", {"kind": "linear", "batch": 8, "in_features": 784, "out_features": 10})])

        The layers need not fit each other: each has inputs of its own, and the network's activations are not told.
        """

        def plain(value: Field) -> int | str | list[int]:
            if isinstance(value, str):
                return value
            return int(value) if isinstance(value, int) else [int(size) for size in value]

        fields = [(own, json.dumps({name: plain(value) for name, value in layer.items()})) for own, layer in layers]
        return cls(_native.Network.of_layers(name, fields))

    def changed(self, layers: str | Sequence[str], **fields: Field) -> Network:
        """The network with fields of some layers set (`*` in a name stands for any characters), the layers behind as that
        has it: `network.changed("conv3_2", out_channels=192)`. Raises `Error` where the network wouldn't fit any more."""
        names = [layers] if isinstance(layers, str) else list(layers)

        def text(value: Field) -> str:
            if isinstance(value, str):
                return value
            return str(int(value)) if isinstance(value, int) else ";".join(str(size) for size in value)

        return Network(self._native.changed(names, [(field, text(value)) for field, value in fields.items()]))

    @property
    def name(self) -> str:
        return self._native.name

    @property
    def batch(self) -> int:
        return self._native.batch

    @property
    def layers(self) -> list[LayerDescription]:
        """The layers in the order of execution."""
        layers: list[LayerDescription] = json.loads(self._native.layers())
        return layers

    @property
    def warnings(self) -> list[str]:
        """What of its file is not costed, and where a change was ambiguous."""
        return self._native.warnings()

    def __repr__(self) -> str:
        return f"<wattfarm.Network {self.name!r} at batch {self.batch}>"
