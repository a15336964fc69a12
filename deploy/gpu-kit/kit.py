#!/usr/bin/env python3
"""Runs a measuring campaign on this machine: see README.md beside this file.

Starts coordinator, agent and trainer as a farm on loopback, lets layers be measured, measures whole networks, and packs
what came of it into a few files. Whatever happens on the way, what is there is packed.
Exit status: 0 the campaign ran to its end, 1 something failed (the files hold what was there until then), 2 something is
missing on this machine, 130 stopped early.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path

KIT = Path(__file__).resolve().parent
TORCH = "2.11."

# The paper's networks that fit a short campaign, and two that the recipe was not tuned to.
NETWORKS = ["neuralpower/alexnet", "neuralpower/nin", "neuralpower/cifar10-6conv", "googlenet", "vgg19"]

# Parts of the time at the end: the networks', their gap's, and packing's. All of it is 0.28 of the time, and of a short
# campaign up to half: the agent has jobs in hand, and a network takes seconds.
GAP_PART, PACKING_PART = 0.3, 0.12


def shares(seconds: float) -> tuple[float, float, float]:
    """When layers end, networks end and the gap ends, as shares of the time."""
    rest = max(0.28, min(0.5, 60 / seconds))
    return 1 - rest, 1 - rest * (GAP_PART + PACKING_PART), 1 - rest * PACKING_PART


class Missing(Exception):
    """This machine lacks something; the text says what."""


class Stopped(Exception):
    """Somebody wants the campaign to end now."""


def main() -> int:
    """Parses the command line and turns every expected failure into a line and an exit status."""
    parser = argparse.ArgumentParser(description="Measures this machine's GPU; README.md tells more.")
    parser.add_argument("--minutes", type=float, default=9.0, help="in all, packing included")
    parser.add_argument("--out", type=Path, help="the folder to leave the results in: a new one")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on from what DIR holds")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--power", default="light", choices=["off", "light", "full"])
    parser.add_argument("--power-share", type=float, default=0.25)
    parser.add_argument("--lock-clock-mhz", type=int)
    parser.add_argument("--sensor-gain", type=float)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    args = parser.parse_args()
    if (args.out is None) == (args.resume is None):
        parser.error("give either --out DIR or --resume DIR")
    if not 0.5 <= args.minutes <= 100_000:
        parser.error("--minutes has to be 0.5 or more")

    def stop(number, frame):
        # Packing must not be interrupted by the same signal once more.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        campaign = Campaign(args)
    except Missing as missing:
        say(f"cannot measure here: {missing}")
        return 2
    return campaign.run()


class Campaign:
    """One run: its farm's folder, its processes, and its time."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.began = time.monotonic()
        self.seconds = args.minutes * 60
        self.args = args
        self.layers_end, self.networks_end, self.gap_end = shares(self.seconds)
        self.out = (args.out or args.resume).resolve()
        self.farm = self.out / "farm"
        self.environment = environment()
        self.processes: dict[str, subprocess.Popen] = {}
        self.platform: str | None = None
        self.address = ""
        self.networks: list[dict] = []
        self.notes: list[str] = []
        if args.resume:
            self.unpack()
        else:
            if self.out.exists() and any(self.out.iterdir()):
                raise Missing(f"{self.out} is not empty: --resume goes on from a campaign")
            self.farm.mkdir(parents=True)

    def unpack(self) -> None:
        """Puts the farm of an earlier run back. One that was killed left its folder itself."""
        packed = self.out / "farm.tar.gz"
        if self.farm.is_dir():
            return
        if not packed.is_file():
            raise Missing(f"{packed} is not there")
        with tarfile.open(packed) as archive:
            archive.extractall(self.out, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(self.out)

    def left(self, share: float) -> float:
        """Seconds until `share` of the time is over."""
        return self.seconds * share - (time.monotonic() - self.began)

    def run(self) -> int:
        status = 0
        try:
            self.start()
            self.measure_layers()
            self.measure_networks()
            self.fetch()
            self.end_processes()
            self.measure_gap()
        except Stopped:
            say("stopping early: packing what is there")
            self.notes.append("Stopped early.")
            status = 130
        except (Missing, OSError, subprocess.SubprocessError, ValueError, KeyError) as failure:
            say(f"failed: {failure}")
            self.notes.append(f"Failed: {failure}")
            status = 1
        try:
            self.pack()
        finally:
            self.end_processes()
        say(f"done in {time.monotonic() - self.began:.0f} s: {self.out}")
        return status

    # The farm

    def start(self) -> None:
        """Starts coordinator, agent and trainer, and waits until the platform is known."""
        ready = self.farm / "ready"
        ready.unlink(missing_ok=True)
        store = self.farm / "store"
        self.spawn("coordinator", "--listen", "127.0.0.1:0", "--store", store, "--ready-file", ready)
        self.wait("the coordinator", 60, lambda: ready.is_file() and ready.read_text().strip())
        self.address = ready.read_text().strip()
        key = store / "operator.key"
        self.environment |= {"WATTFARM_COORDINATOR": self.address, "WATTFARM_OPERATOR_KEY_FILE": str(key)}
        for campaign in self.ask("campaigns"):
            if campaign["ended_at_ms"] is None:
                self.ask("campaigns", "--cancel", campaign["id"])
        token = self.ask("token", "create", "--note", "kit")["token"]
        options = device_options(self.args, power=self.args.power)
        self.spawn("agent", "--token", token, "--state", self.farm / "agent", *options)
        self.spawn("trainer", "--operator-key-file", key)

        def connected():
            found = [one for one in self.ask("platforms") if one["agents_connected"] > 0]
            return found[0]["slug"] if found else None

        self.platform = self.wait("the agent", 120, connected)
        say(f"measuring {self.platform}")

    def spawn(self, name: str, *arguments) -> None:
        log = (self.farm / f"{name}.log").open("ab")
        command = [KIT / "bin" / f"wattfarm-{name}", *map(str, arguments)]
        # A session of its own: a Ctrl-C in the terminal is for this script, which ends the others in order.
        self.processes[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
        )

    def check_processes(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                tail = (self.farm / f"{name}.log").read_text(errors="replace").strip().splitlines()[-5:]
                raise Missing(f"the {name} ended with {process.returncode}: " + " | ".join(tail))

    def wait(self, what: str, seconds: float, ready):
        """Polls until `ready` has an answer."""
        until = time.monotonic() + seconds
        while True:
            self.check_processes()
            answer = ready()
            if answer:
                return answer
            if time.monotonic() > until:
                raise Missing(f"{what} is not ready after {seconds:.0f} s: see its log")
            time.sleep(0.2)

    def end_processes(self) -> None:
        """Trainer and agent first: what is measured is handed in before the coordinator goes."""
        for name in ["trainer", "agent", "coordinator"]:
            process = self.processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wattfarm(self, *arguments, seconds: float = 60) -> str:
        """What the user's tool answers."""
        command = [KIT / "bin" / "wattfarm", *map(str, arguments)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self.environment,
            timeout=max(seconds, 5), check=False, start_new_session=True,
        )
        if done.returncode != 0:
            raise ValueError(f"wattfarm {' '.join(map(str, arguments))}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def ask(self, *arguments, seconds: float = 60):
        return json.loads(self.wattfarm("--format", "json", *arguments, seconds=seconds))

    # The campaign

    def measure_layers(self) -> None:
        """Asks for models of every kind, and lets layers be measured until their time is over."""
        wanted = str(uuid.uuid4())
        # The budget counts measuring alone; the time on the wall ends it.
        budget = f"{max(60, math.ceil(self.seconds))}s"
        self.ask("request", "--platform", self.platform, "--id", wanted, "--budget", budget,
                 "--exclude", self.args.networks)
        next_word = 0.0
        while self.left(self.layers_end) > 0:
            self.check_processes()
            if time.monotonic() > next_word:
                count = sum(agent["measurements"] for agent in self.ask("agents"))
                say(f"{count} measurements, {self.left(self.layers_end):.0f} s of layers to go")
                next_word = time.monotonic() + 30
            time.sleep(1)
        self.ask("campaigns", "--cancel", wanted)

    def measure_networks(self) -> None:
        """Measures whole networks, and has them predicted by what was learnt."""
        for network in filter(None, self.args.networks.split(",")):
            if self.left(self.networks_end) < 5:
                self.notes.append(f"No time was left to measure {network}.")
                continue
            try:
                measured = self.ask("measure", network, "--platform", self.platform, seconds=self.left(self.networks_end))
                predicted = self.ask("predict", network, "--platform", self.platform)
                self.networks.append({"network": network, "measured": measured, "predicted": predicted})
            except (ValueError, subprocess.TimeoutExpired) as failure:
                self.notes.append(f"{network} was not measured: {str(failure)[:300]}")

    def fetch(self) -> None:
        try:
            self.wattfarm("fetch", "--platform", self.platform, "--output", self.out / "models.json")
        except ValueError as failure:
            self.notes.append(f"No models: {failure}")

    def measure_gap(self) -> None:
        """The additivity gap, network by network, as long as there is time. The device is nobody else's now."""
        missing: list[str] = []
        for network in filter(None, self.args.networks.split(",")):
            if self.left(self.gap_end) < 5:
                missing.append(f"no time was left for {network}")
                continue
            try:
                self.additivity(network)
            except subprocess.SubprocessError as failure:
                missing.append(f"{network}: {str(failure)[-200:]}")
        try:
            table = self.additivity("none")
        except subprocess.SubprocessError as failure:
            table = f"no table: {str(failure)[-200:]}\n"
        (self.out / "additivity.txt").write_text(table + "".join(f"{line}\n" for line in missing))

    def additivity(self, network: str) -> str:
        """Measures a network's gap, or none, and returns the table of all so far."""
        options = device_options(self.args, power="off")
        command = [
            KIT / "bin" / "wattfarm-agent", "--state", self.farm / "agent", *options,
            "additivity", network, "--keep", self.farm / "additivity.jsonl",
        ]
        with (self.farm / "additivity.log").open("ab") as log:
            done = subprocess.run(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                text=True, env=self.environment, timeout=max(self.left(self.gap_end), 10), check=True,
                start_new_session=True,
            )
        return done.stdout

    # What is left behind

    def pack(self) -> None:
        """Writes the files, whatever there is by now."""
        rows: list[dict] = []
        exported = self.farm / "export"
        shutil.rmtree(exported, ignore_errors=True)
        try:
            if "coordinator" not in self.processes:
                self.restart_coordinator()
            self.wattfarm("export", "--format", "ndjson", "--output", exported, seconds=120)
            if not (self.out / "models.json").exists() and self.platform:
                self.fetch()
        except (Missing, ValueError, OSError, subprocess.SubprocessError) as failure:
            self.notes.append(f"The measurements could not be exported: {failure}. They are in farm.tar.gz.")
        self.end_processes()
        if exported.is_dir():
            lines = [line for file in sorted(exported.glob("*.ndjson"))
                     if file.name != "platforms.ndjson" for line in file.read_text().splitlines()]
            rows = [json.loads(line) for line in lines]
            with gzip.open(self.out / "measurements.ndjson.gz", "wt") as file:
                file.writelines(f"{line}\n" for line in lines)
            write_csv(self.out / "measurements.csv", rows)
            shutil.rmtree(exported)
        with gzip.open(self.out / "logs.txt.gz", "wt") as file:
            for log in sorted(self.farm.glob("*.log")):
                file.write(f"==> {log.name}\n{log.read_text(errors='replace')}\n")
        (self.out / "report.md").write_text(self.report(rows))
        for log in self.farm.glob("*.log"):
            log.unlink()
        beside = self.out / "farm.tar.gz.new"
        with tarfile.open(beside, "w:gz", compresslevel=3) as archive:
            archive.add(self.farm, "farm")
        beside.rename(self.out / "farm.tar.gz")
        shutil.rmtree(self.farm)

    def restart_coordinator(self) -> None:
        ready = self.farm / "ready"
        ready.unlink(missing_ok=True)
        store = self.farm / "store"
        self.processes.clear()
        self.spawn("coordinator", "--listen", "127.0.0.1:0", "--store", store, "--ready-file", ready)
        self.wait("the coordinator", 60, lambda: ready.is_file() and ready.read_text().strip())
        self.environment["WATTFARM_COORDINATOR"] = ready.read_text().strip()

    def report(self, rows: list[dict]) -> str:
        layers = [row for row in rows if "layer" in row["subject"]]
        powered = [row for row in layers if row["reading"].get("power")]
        busy = sum(row["reading"]["conditions"]["seconds"] for row in rows)
        voids: dict[str, int] = {}
        for row in rows:
            reason = (row["reading"]["conditions"].get("board") or {}).get("power_void")
            if reason:
                voids[reason] = voids.get(reason, 0) + 1
        text = [
            f"# {self.platform or 'No platform'}", "",
            f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {self.args.minutes:g} minutes, "
            f"`{' '.join(map(str, sys.argv[1:]))}`", "",
            f"- {len({json.dumps(row['subject'], sort_keys=True) for row in layers})} layers in {len(layers)} "
            f"measurements, {len(powered)} of them with power; {len(rows) - len(layers)} of whole networks",
            f"- {busy:.0f} s of measuring{duty(layers)}",
        ]
        text += [f"- power void {count} times: {reason}" for reason, count in sorted(voids.items())]
        text += [f"- {note}" for note in self.notes]
        sensors = self.farm / "agent" / "sensor-class.json"
        if sensors.is_file():
            text += ["", "## Sensors", "", "```json", sensors.read_text().strip(), "```"]
        kinds: dict[str, list[dict]] = {}
        for row in layers:
            kinds.setdefault(row["subject"]["layer"]["kind"], []).append(row)
        text += ["", "## Layers", "", "| kind | measured | with power |", "|---|---|---|"]
        text += [
            f"| {kind} | {len(of)} | {sum(1 for row in of if row['reading'].get('power'))} |"
            for kind, of in sorted(kinds.items())
        ]
        if self.networks:
            text += ["", "## Networks", "", "```json", json.dumps(self.networks, indent=1), "```"]
        gap = self.out / "additivity.txt"
        if gap.is_file():
            text += ["", "## Additivity gap", "", "```", gap.read_text().rstrip(), "```"]
        return "\n".join(text) + "\n"


def duty(layers: list[dict]) -> str:
    """The share of the time from the first layer to the last, in this run, that was spent measuring."""
    conditions = [row["reading"]["conditions"] for row in layers]
    ends = sorted((one["measured_at_ms"] / 1e3, one["seconds"]) for one in conditions)
    # A longer pause than any measurement takes is one between two runs of the kit, or somebody else's.
    while len(ends) > 1 and any(after[0] - after[1] - before[0] > 60 for before, after in zip(ends, ends[1:])):
        ends.pop(0)
    if len(ends) < 2:
        return ""
    span = ends[-1][0] - (ends[0][0] - ends[0][1])
    return f"; of the {span:.0f} s of layers at the end, {sum(one[1] for one in ends) / span:.1%} were measuring"


def device_options(args: argparse.Namespace, power: str) -> list[str]:
    options = ["--device", args.device, "--power", power, "--power-share", str(args.power_share), "--quick-probe"]
    if args.lock_clock_mhz:
        options += ["--lock-clock-mhz", str(args.lock_clock_mhz)]
    if args.sensor_gain:
        options += ["--sensor-gain", str(args.sensor_gain)]
    return options


def environment() -> dict[str, str]:
    """The processes' environment: libtorch is the one of this machine's Python."""
    folder = os.environ.get("WATTFARM_LIBTORCH_LIB")
    if folder is None:
        spec = importlib.util.find_spec("torch")
        if spec is None or not spec.submodule_search_locations:
            raise Missing(f"{sys.executable} has no torch: set PYTHON to one that has torch {TORCH}x (CUDA build)")
        package = Path(next(iter(spec.submodule_search_locations)))
        version = {}
        exec((package / "version.py").read_text(), version)
        if not str(version["__version__"]).startswith(TORCH):
            raise Missing(f"torch is {version['__version__']}, and the kit is built for {TORCH}x")
        folder = package / "lib"
        if not (folder / "libtorch_cuda.so").is_file():
            raise Missing(f"torch {version['__version__']} in {package} is a build without CUDA")
    path = os.environ.get("LD_LIBRARY_PATH")
    return os.environ | {
        "LD_LIBRARY_PATH": f"{folder}:{path}" if path else str(folder),
        "WATTFARM_LIBTORCH_CUDA": str(Path(folder) / "libtorch_cuda.so"),
        "NO_COLOR": "1",
    }


def write_csv(path: Path, rows: list[dict]) -> None:
    """One row a measurement; the layer's own fields as JSON, because each kind has others."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([
            "sequence", "kind", "dtype", "memory_format", "subject", "recipe", "runtime_ms", "runtime_ms_low",
            "runtime_ms_high", "repetitions", "launch_ms", "power_w", "power_w_low", "power_w_high", "idle_w", "sensor",
            "procedure", "energy_mj", "clock_mhz", "temperature_c", "throttle_reasons", "board", "driver",
            "measured_at_ms", "seconds",
        ])
        for row in rows:
            layer, reading = row["subject"].get("layer"), row["reading"]
            runtime, conditions = reading["runtime"], reading["conditions"]
            power, board = reading.get("power") or {}, conditions.get("board") or {}
            trial = board.get("trial") or {}
            subject = layer or {"name": row["subject"]["network"].get("name")}
            energy = power["mean_w"] * runtime["median_ms"] if power else ""
            table.writerow([
                row["sequence"], layer["kind"] if layer else "network", subject.get("dtype", ""),
                subject.get("memory_format", ""), json.dumps(subject, sort_keys=True), row["recipe"],
                runtime["median_ms"], runtime["low_ms"], runtime["high_ms"], runtime["repetitions"],
                board.get("launch_ms", ""), power.get("mean_w", ""), trial.get("low_w", ""), trial.get("high_w", ""),
                power.get("idle_w", ""), power.get("sensor", ""), trial.get("procedure", ""), energy,
                conditions.get("clock_mhz", ""), conditions.get("temperature_c", ""),
                conditions.get("throttle_reasons", ""), board.get("uuid", ""), conditions.get("driver", ""),
                conditions["measured_at_ms"], conditions["seconds"],
            ])


def say(text: str) -> None:
    print(f"kit: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
