"""A client in another language: everything through the .proto files alone, against the real coordinator and trainer.

An agent written here enrols, measures by a law that is known, and a designer requests models and fetches them: the models
must have found the law. Run by `make test`, which brings Python's packages and the binaries.
"""

import importlib
import math
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("WATTFARM_BINARIES", ROOT / "target" / "debug"))
PATIENCE = 60.0


def compile_protos(folder: str):
    """The messages and services of wattfarm.v1, generated into `folder`."""
    protos = [str(path) for path in sorted((ROOT / "proto" / "wattfarm" / "v1").glob("*.proto"))]
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}", f"--grpc_python_out={folder}", *protos]
    if protoc.main(arguments) != 0:
        raise RuntimeError("the .proto files do not compile")
    sys.path.insert(0, folder)
    names = ("types_pb2", "services_pb2", "services_pb2_grpc")
    return [importlib.import_module(f"wattfarm.v1.{name}") for name in names]


def wait_for(what: str, ready):
    """What `ready` returns as soon as it is true, within PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE} s in vain for {what}")


class Farm(unittest.TestCase):
    """One coordinator and one trainer for all tests of the class."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.types, cls.services, cls.rpc = compile_protos(cls.folder.name)
        store = pathlib.Path(cls.folder.name, "store")
        ready = pathlib.Path(cls.folder.name, "ready")
        cls.start("wattfarm-coordinator", "--listen", "127.0.0.1:0", "--store", store, "--ready-file", ready)
        cls.address = wait_for("the coordinator", lambda: ready.exists() and ready.read_text().strip())
        key_file = store / "operator.key"
        cls.operator = (("authorization", f"Bearer {key_file.read_text().strip()}"),)
        cls.start("wattfarm-trainer", "--coordinator", cls.address, "--operator-key-file", key_file)
        cls.channel = grpc.insecure_channel(cls.address)
        cls.addClassCleanup(cls.channel.close)
        cls.agents = cls.rpc.AgentServiceStub(cls.channel)
        cls.models = cls.rpc.ModelServiceStub(cls.channel)
        cls.farm = cls.rpc.FarmServiceStub(cls.channel)

    @classmethod
    def start(cls, binary: str, *arguments):
        log = open(pathlib.Path(cls.folder.name, f"{binary}.log"), "wb")
        cls.addClassCleanup(log.close)
        process = subprocess.Popen([BINARIES / binary, *map(str, arguments)], stderr=log)

        def stop():
            process.terminate()
            if process.wait(timeout=20) != 0:
                raise AssertionError(f"{binary} ended with {process.returncode} after SIGTERM")

        cls.addClassCleanup(stop)

    def platform(self):
        cpu = self.types.Platform.Cpu(model="A processor in Python", threads=1, instruction_set="law")
        return self.types.Platform(cpu=cpu, libtorch="0.0.0")

    def enrol(self):
        """An agent: its id, what it puts on each call, and its platform's slug."""
        token = self.farm.CreateToken(self.services.CreateTokenRequest(), metadata=self.operator, timeout=10).token
        credential = secrets.token_bytes(32)
        request = self.services.EnrollRequest(
            token=token, credential=credential, name="python", platform=self.platform()
        )
        answer = self.agents.Enroll(request, timeout=10)
        again = self.agents.Enroll(request, timeout=10)
        self.assertEqual(answer.agent_id, again.agent_id, "a repeated call is answered alike")
        return answer.agent_id, (("authorization", f"Bearer {credential.hex()}"),), answer.platform_slug

    @staticmethod
    def law_ms(layer) -> float:
        """Time of a call, of the layer's sizes alone: 10 us, 1 ns a value, a tenth of that a product."""
        sizes = {field.name: field.size for field in layer.fields}
        if layer.kind == "relu":
            return 0.01 + 1e-6 * sizes["batch"] * sizes["features"]
        return 0.01 + 1e-7 * sizes["batch"] * sizes["in_features"] * sizes["out_features"]

    def reading(self, ms: float):
        reading = self.types.Reading
        return reading(
            runtime=reading.Runtime(
                median_ms=ms, low_ms=ms, high_ms=ms, repetitions=1, warmup=1, samples_ms=[ms]
            ),
            conditions=reading.Conditions(agent_version="python", host="python", seconds=0.001),
        )

    def work(self, authorization, stopping: threading.Event):
        """Leases, measures by the law and reports, until told to stop."""
        while not stopping.is_set():
            request = self.services.LeaseJobsRequest(max_jobs=16, wait_ms=500)
            leases = self.agents.LeaseJobs(request, metadata=authorization, timeout=10).leases
            report = self.services.ReportResultsRequest.Report
            reports = [
                report(job_id=lease.job_id, lease=lease.lease, reading=self.reading(self.law_ms(lease.subject.layer)))
                for lease in leases
            ]
            if reports:
                request = self.services.ReportResultsRequest(reports=reports)
                answer = self.agents.ReportResults(request, metadata=authorization, timeout=10)
                self.assertEqual(len(answer.acknowledgements), len(reports))

    def test_models_are_requested_and_fetched(self):
        _, authorization, platform = self.enrol()
        stopping = threading.Event()
        worker = threading.Thread(target=self.work, args=(authorization, stopping))
        worker.start()
        self.addCleanup(worker.join)
        self.addCleanup(stopping.set)
        campaign = self.types.CampaignRequest(
            campaign_id=str(uuid.uuid4()),
            platform=platform,
            kinds=["relu", "linear"],
            budget=self.types.CampaignRequest.Budget(jobs=120),
        )
        request = self.services.RequestModelsRequest(campaign=campaign)
        self.models.RequestModels(request, timeout=10)
        self.models.RequestModels(request, timeout=10)
        watch = self.services.WatchCampaignRequest(campaign_id=campaign.campaign_id)
        last = None
        for message in self.models.WatchCampaign(watch, timeout=PATIENCE):
            last = message.campaign
        self.assertEqual(last.state, self.types.CAMPAIGN_STATE_EXHAUSTED)
        self.assertEqual(last.jobs_done, 120)

        def fetched():
            parts = list(self.models.GetModels(self.services.GetModelsRequest(platform=platform), timeout=10))
            models = [part.model for part in parts if part.HasField("model")]
            done = sum(model.provenance.samples for model in models) >= 110
            return parts if done and {model.kind for model in models} == {"relu", "linear"} else None

        header, *models = wait_for("both models", fetched)
        self.assertEqual(header.header.slug, platform)
        for part in models:
            self.assertLess(part.model.validation.rmspe, 15.0, part.model.kind)
        self.assert_prediction_follows_the_law(platform)

    def assert_prediction_follows_the_law(self, platform):
        """A network of two layers that nobody sampled, predicted by the coordinator."""
        field = self.types.Layer.Field

        def layer(kind, **sizes):
            fields = [field(name=name, size=size) for name, size in sizes.items()]
            return self.types.Layer(kind=kind, fields=fields)

        layers = [layer("linear", batch=1, in_features=1111, out_features=777), layer("relu", batch=1, features=777)]
        node, source = self.types.Network.Node, self.types.Network.Source
        nodes = [
            node(name="fc", layer=layers[0], inputs=[source(input=True)]),
            node(name="act", layer=layers[1], inputs=[source(node=0)]),
        ]
        graph = self.types.Network(name="two", input=self.types.Sizes(sizes=[1, 1111]), nodes=nodes)
        request = self.services.PredictRequest(platform=platform, graph=graph)
        *parts, summary = self.models.Predict(request, timeout=10)
        self.assertEqual([part.layer.name for part in parts], ["fc", "act"])
        for part, known in zip(parts, layers):
            self.assertLess(abs(math.log(part.layer.runtime_ms / self.law_ms(known))), 0.3, part.layer.name)
        total = sum(part.layer.runtime_ms for part in parts)
        self.assertAlmostEqual(summary.summary.runtime_ms, total)
        self.assertFalse(summary.summary.HasField("power_w"), "no meter, no power")

    def test_errors_have_codes_and_fields(self):
        _, authorization, platform = self.enrol()

        def refused(call):
            with self.assertRaises(grpc.RpcError) as caught:
                call()
            return caught.exception.code(), caught.exception.details()

        unknown = self.services.GetModelsRequest(platform="no-such-platform")
        code, _ = refused(lambda: list(self.models.GetModels(unknown, timeout=10)))
        self.assertEqual(code, grpc.StatusCode.NOT_FOUND)
        lease = self.services.LeaseJobsRequest(max_jobs=1)
        code, _ = refused(lambda: self.agents.LeaseJobs(lease, timeout=10))
        self.assertEqual(code, grpc.StatusCode.UNAUTHENTICATED)
        report = self.services.ReportResultsRequest.Report(
            job_id=str(uuid.uuid4()), lease=1, reading=self.reading(math.nan)
        )
        request = self.services.ReportResultsRequest(reports=[report])
        code, details = refused(lambda: self.agents.ReportResults(request, metadata=authorization, timeout=10))
        self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("reports[0].reading.runtime.median_ms", details)
        empty = self.types.Layer(kind="conv2d", fields=[])
        subject = self.types.Subject(layer=empty)
        measure = self.services.MeasureRequest(platform=platform, subjects=[subject], replicas=1)
        code, details = refused(lambda: list(self.models.Measure(measure, timeout=10)))
        self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("subjects[0].layer.batch", details)

    def test_any_client_can_explore(self):
        names = ProtoReflectionDescriptorDatabase(self.channel).get_services()
        for service in ("AgentService", "ModelService", "TrainerService", "FarmService"):
            self.assertIn(f"wattfarm.v1.{service}", names)
        health = health_pb2_grpc.HealthStub(self.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service=""), timeout=10)
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    unittest.main()
