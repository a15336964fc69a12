"""A farm's coordinator: asking for models, and fetching them. Needs grpcio."""

from __future__ import annotations

import dataclasses
import pathlib
import types
import typing
import uuid
from collections.abc import Iterator, Sequence

import grpc

from . import _native
from .models import Models
from .v1 import services_pb2, services_pb2_grpc, types_pb2

#: Seconds that a call may take which is answered at once.
TIMEOUT_S = 30.0

#: Bytes of a message at most: a model of many terms is some hundred thousand.
MESSAGE_MAX = 16 << 20


@dataclasses.dataclass(frozen=True)
class Platform:
    """A platform that can be asked about."""

    slug: str
    hash: str
    agents_connected: int
    measurements: int
    models: int


@dataclasses.dataclass(frozen=True)
class Campaign:
    """A request for models, and how far it has come."""

    id: str
    platform: str
    #: waiting, sampling, ready, converged, exhausted or cancelled.
    state: str
    jobs_done: int
    seconds_measured: float
    #: Cross-validated error in percent of each kind's newest model of time, where there is one.
    rmspe: dict[str, float | None]
    #: Empty, if nothing holds it up.
    waiting_because: str

    @classmethod
    def _of(cls, message: types_pb2.Campaign) -> Campaign:
        state = types_pb2.CampaignState.Name(message.state)
        return cls(
            id=message.request.campaign_id,
            platform=message.platform_slug,
            state=state.removeprefix("CAMPAIGN_STATE_").lower(),
            jobs_done=message.jobs_done,
            seconds_measured=message.seconds_measured,
            rmspe={own.kind: own.rmspe if own.HasField("rmspe") else None for own in message.kinds},
            waiting_because=message.waiting_because,
        )


def _read(path: str | pathlib.Path | None) -> bytes | None:
    return None if path is None else pathlib.Path(path).read_bytes()


class Farm:
    """A connection to a coordinator; a context manager. What the coordinator refuses raises `wattfarm.Error`."""

    def __init__(
        self,
        address: str = "127.0.0.1:7461",
        *,
        key: str | None = None,
        ca: str | pathlib.Path | None = None,
        certificate: str | pathlib.Path | None = None,
        certificate_key: str | pathlib.Path | None = None,
    ) -> None:
        """`key` is a user's key; `ca` a file with the farm's authority, and with it the connection is TLS; `certificate` and
        `certificate_key` are the client's own files, where the farm asks for them."""
        options = [("grpc.max_receive_message_length", MESSAGE_MAX)]
        if ca is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(_read(ca), _read(certificate_key), _read(certificate))
            self._channel = grpc.secure_channel(address, credentials, options=options)
        self._address = address
        self._metadata = () if key is None else (("authorization", f"Bearer {key.strip()}"),)
        self._models = services_pb2_grpc.ModelServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self.close()

    def _error(self, error: grpc.RpcError) -> _native.Error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return _native.Error(f"the coordinator at {self._address} cannot be reached: {error.details()}")
        return _native.Error(f"{error.code().name}: {error.details()}")

    def _call(self, call: typing.Callable[..., typing.Any], request: typing.Any) -> typing.Any:
        try:
            return call(request, metadata=self._metadata, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def platforms(self) -> list[Platform]:
        """The platforms that can be asked about."""
        answer = self._call(self._models.ListPlatforms, services_pb2.ListPlatformsRequest())
        names = [field.name for field in dataclasses.fields(Platform)]
        return [Platform(**{name: getattr(own, name) for name in names}) for own in answer.platforms]

    def request(
        self,
        platform: str,
        *,
        kinds: Sequence[str] = (),
        dtype: str = "f32",
        jobs: int | None = None,
        seconds: float | None = None,
        target_error: float | None = None,
        campaign_id: str | None = None,
    ) -> Campaign:
        """Asks for the models of a platform: a campaign of `jobs` measurements, or of `seconds` of measuring, that ends when
        every kind's error is at most `target_error` percent. No kinds are all. The same request under the same id is one
        campaign."""
        if (jobs is None) == (seconds is None):
            raise _native.Error("a campaign has a budget of jobs or of seconds")
        budget = types_pb2.CampaignRequest.Budget(jobs=jobs, seconds=seconds)
        try:
            wire_dtype = types_pb2.Dtype.Value(f"DTYPE_{dtype.upper()}")
        except ValueError:
            raise _native.Error(f"`{dtype}` is not a number type of layers") from None
        campaign = types_pb2.CampaignRequest(
            campaign_id=campaign_id or str(uuid.uuid4()),
            platform=platform,
            kinds=kinds,
            dtype=wire_dtype,
            target_error=target_error,
            budget=budget,
            weight=1,
        )
        request = services_pb2.RequestModelsRequest(campaign=campaign)
        return Campaign._of(self._call(self._models.RequestModels, request).campaign)

    def watch(self, campaign: Campaign | str) -> Iterator[Campaign]:
        """The campaign now, and again whenever it changes, until it has ended."""
        own = campaign.id if isinstance(campaign, Campaign) else campaign
        try:
            request = services_pb2.WatchCampaignRequest(campaign_id=own)
            for message in self._models.WatchCampaign(request, metadata=self._metadata):
                yield Campaign._of(message.campaign)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def fetch(self, platform: str) -> Models:
        """The newest models of a platform."""
        header, models = None, []
        try:
            request = services_pb2.GetModelsRequest(platform=platform)
            for part in self._models.GetModels(request, metadata=self._metadata, timeout=TIMEOUT_S):
                if part.HasField("header"):
                    header = part.header.SerializeToString()
                else:
                    models.append(part.model.SerializeToString())
        except grpc.RpcError as error:
            raise self._error(error) from error
        if header is None:
            raise _native.Error("the coordinator sent no header")
        return Models(_native.Models.of_wire(header, models))
