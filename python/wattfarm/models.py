"""The models of one platform, as a farm has learned them."""

from __future__ import annotations

import json
import os
import pathlib
import typing

from . import _native
from ._overhead import PythonOverhead
from ._prediction import Prediction
from .network import Network


class ModelSummary(typing.TypedDict):
    """What a model is for, and how good it is."""

    kind: str
    dtype: str
    target: str
    version: int
    #: Cross-validated error in percent.
    rmspe: float
    samples: int


class Models:
    """The models of one platform. Made by `read`, or by `Farm.fetch`."""

    def __init__(self, native: _native.Models) -> None:
        self._native = native

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Models:
        """Models from a file that `wattfarm fetch` or `write` wrote."""
        return cls(_native.Models.of_json(pathlib.Path(path).read_text(encoding="utf-8")))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the models into a file, for predictions without a farm."""
        pathlib.Path(path).write_text(self._native.to_json() + "\n", encoding="utf-8")

    @property
    def platform(self) -> str:
        """What people call the platform."""
        return self._native.platform

    def __iter__(self) -> typing.Iterator[ModelSummary]:
        return iter(json.loads(self._native.list()))

    def predict(self, network: Network, *, python: PythonOverhead | None = None) -> Prediction:
        """What a network will cost, layer by layer, when libtorch runs it. With what Python itself costs an operator on this
        machine, as `measure_python_overhead` finds it, the prediction has that for the network's layers as a term apart."""
        us = None if python is None else (python.us_per_operator, python.us_low, python.us_high)
        return Prediction.of_json(self._native.predict(network._native, us))

    def __repr__(self) -> str:
        return f"<wattfarm.Models of {self.platform}>"
