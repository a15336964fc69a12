"""What a network will cost, as `wattfarm predict --format json` has it."""

from __future__ import annotations

import dataclasses
import json
import typing

if typing.TYPE_CHECKING:
    import pandas


class LayerPrediction(typing.TypedDict):
    """One layer's cost for the whole batch; what has no model is None."""

    name: str
    kind: str
    hash: str
    runtime_ms: float | None
    runtime_ms_low: float | None
    runtime_ms_high: float | None
    power_w: float | None
    energy_mj: float | None
    flops: int
    bytes: int
    limit: str | None


class Total(typing.TypedDict):
    """A network's cost: sums over its layers."""

    runtime_ms: float | None
    runtime_ms_low: float | None
    runtime_ms_high: float | None
    power_w: float | None
    energy_mj: float | None
    energy_mj_per_item: float | None
    flops: int
    parameters: int
    items_per_s: float | None
    peak_activation_bytes: int


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A network's prediction on one platform."""

    network: str
    batch: int
    platform: str
    layers: list[LayerPrediction]
    total: Total
    #: What a reader must know before trusting the figures.
    warnings: list[str]
    #: What an eager call from Python takes beyond `total["runtime_ms"]`, in which it is not; None where it wasn't asked for. It
    #: counts the network's layers, each called as a module.
    python_overhead_ms: float | None
    python_overhead_ms_low: float | None
    python_overhead_ms_high: float | None

    @classmethod
    def of_json(cls, text: str) -> Prediction:
        fields = json.loads(text)
        return cls(**{field.name: fields[field.name] for field in dataclasses.fields(cls)})

    def frame(self) -> pandas.DataFrame:
        """The layers as a data frame, a row each in the order of execution. Needs pandas."""
        import pandas

        return pandas.DataFrame(self.layers)
