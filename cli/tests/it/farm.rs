//! A farm for tests of the command: real processes on loopback, none of which outlives its test.
//!
//! They are other packages, whose binaries lie beside the command's after `cargo build --workspace`; `make test` sees to
//! that.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The command, with nothing from the surrounding environment.
pub(crate) fn wattfarm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattfarm"));
    command
        .args(arguments)
        .env_remove("WATTFARM_COORDINATOR")
        .env_remove("WATTFARM_OPERATOR_KEY_FILE")
        .env_remove("WATTFARM_PLATFORMS");
    command
}

/// Farms of one machine measure on the same core: a test with an agent waits for the others' to end.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static FARM: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that another could see.
    FARM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again and again.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// A process that ends with its test.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its stderr in `log`, and its stdout beside.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let child = command
            .stdin(Stdio::null())
            .stdout(file(&log.with_extension("out")).expect("a file"))
            .stderr(file(log).expect("a log"))
            .spawn();
        let hint = "run `cargo build --workspace` first, or `make test`";
        let child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}; {hint}"));
        let log = log.to_owned();
        Self { child, log }
    }

    /// What it has said on stderr.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Sends a signal, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("a process to end", || self.child.try_wait().expect("waits"))
    }

    /// What it has printed on stdout.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.log.with_extension("out")).expect("a file")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A farm's folder, and where its coordinator listens.
pub(crate) struct Farm {
    pub(crate) folder: tempfile::TempDir,
    address: String,
}

impl Farm {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            address: "127.0.0.1:0".to_owned(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Process {
        let own = Path::new(env!("CARGO_BIN_EXE_wattfarm"));
        let mut command = Command::new(own.with_file_name(program));
        command.args(arguments).current_dir(self.folder.path());
        Process::start(command, &self.path(&format!("{program}.log")))
    }

    /// The first time on a port that is free, later on the same.
    pub(crate) fn coordinator(&mut self) -> Process {
        let ready = self.path("ready");
        let _ = fs::remove_file(&ready);
        let arguments = ["--store", "store", "--ready-file", "ready", "--listen"];
        let arguments: Vec<&str> = arguments.into_iter().chain([&*self.address]).collect();
        let process = self.start("wattfarm-coordinator", &arguments);
        // Written whole, or not at all.
        let address = || fs::read_to_string(&ready).ok();
        self.address = wait_for("the coordinator", address).trim().to_owned();
        process
    }

    pub(crate) fn agent(&self, token: &str) -> Process {
        let arguments = [
            "--coordinator",
            &self.address,
            "--state",
            "agent",
            "--token",
        ];
        let arguments: Vec<&str> = arguments.into_iter().chain([token]).collect();
        self.start("wattfarm-agent", &arguments)
    }

    pub(crate) fn trainer(&self) -> Process {
        let arguments = ["--coordinator", &self.address, "--operator-key-file"];
        let arguments: Vec<&str> = arguments
            .into_iter()
            .chain(["store/operator.key"])
            .collect();
        self.start("wattfarm-trainer", &arguments)
    }

    /// What the trainer says of models that it fits anew.
    pub(crate) fn rebuild(&self, models: &str) -> Output {
        let own = Path::new(env!("CARGO_BIN_EXE_wattfarm"));
        let mut command = Command::new(own.with_file_name("wattfarm-trainer"));
        command
            .args(["rebuild", "--models", models])
            .args(["--coordinator", &self.address])
            .args(["--operator-key-file", "store/operator.key"])
            .current_dir(self.folder.path());
        command.output().expect("the trainer runs")
    }

    /// The command as the farm's operator, in the farm's folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = wattfarm(arguments);
        command
            .current_dir(self.folder.path())
            .env("WATTFARM_COORDINATOR", &self.address)
            .env("WATTFARM_OPERATOR_KEY_FILE", "store/operator.key");
        command
    }

    /// What the command prints, which must succeed.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output: Output = self.command(arguments).output().expect("the command runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The same, as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<&str> = ["--format", "json"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        serde_json::from_str(&self.text(&arguments)).expect("JSON")
    }
}

/// Whether nobody holds the lock of a demo's folder any more: all its processes are gone.
pub(crate) fn is_free(demo: &Path) -> bool {
    let lock = File::open(demo.join("lock")).expect("the demo made it");
    lock.try_lock().is_ok()
}
