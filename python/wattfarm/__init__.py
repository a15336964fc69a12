"""What a neural network will cost in time, power and energy, predicted from models that a Wattfarm has learned.

    models = wattfarm.Models.read("models.json")
    prediction = models.predict(wattfarm.Network.read("net.onnx", batch=8))
    prediction.total["runtime_ms"], prediction.frame()

The arithmetic is Wattfarm's own (`cost`), compiled; nothing is computed a second time here. What is wrong raises
`wattfarm.Error`, which says what and where. With a coordinator: `wattfarm.Farm`.
"""

from __future__ import annotations

import os
import typing

from ._native import Error, epr, pareto_front
from ._overhead import PythonOverhead, measure_python_overhead
from ._prediction import LayerPrediction, Prediction, Total
from .models import ModelSummary, Models
from .network import LayerDescription, Network

if typing.TYPE_CHECKING:
    from .farm import Campaign, Farm, Platform

__all__ = [
    "Campaign",
    "Error",
    "Farm",
    "LayerDescription",
    "LayerPrediction",
    "ModelSummary",
    "Models",
    "Network",
    "Platform",
    "Prediction",
    "PythonOverhead",
    "Total",
    "epr",
    "measure_python_overhead",
    "pareto_front",
    "predict",
]


def predict(
    network: str | os.PathLike[str] | Network,
    models: str | os.PathLike[str] | Models,
    batch: int | None = None,
) -> Prediction:
    """Predicts a network (a file, a built-in network's name, or one already read) with models (a file, or already read).

    Raises `Error` where a file cannot be read; `batch` is for networks that are read here.
    """
    if not isinstance(network, Network):
        network = Network.read(network, batch=batch)
    elif batch is not None and batch != network.batch:
        raise Error(f"the network was read for a batch of {network.batch}, not {batch}")
    if not isinstance(models, Models):
        models = Models.read(models)
    return models.predict(network)


def __getattr__(name: str) -> typing.Any:
    # Only whoever speaks with a coordinator needs gRPC.
    if name in ("Campaign", "Farm", "Platform"):
        from . import farm

        return getattr(farm, name)
    raise AttributeError(f"module 'wattfarm' has no attribute {name!r}")
