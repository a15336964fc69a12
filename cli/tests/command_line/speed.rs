//! How soon and with how much memory a file is predicted, as a whole process: `make bench-onnx` runs this.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{files, models};

/// Runs of which the median counts.
const RUNS: usize = 21;

/// A file, and what the command may take for it.
struct Promise {
    what: &'static str,
    path: PathBuf,
    time_max: Duration,
    memory_max_mib: Option<u64>,
}

fn predict(path: &Path, models: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattfarm"));
    command
        .args(["predict", "--format", "json", "--models"])
        .arg(models)
        .arg(path)
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Median time from the start of the process to its end.
fn time(path: &Path, models: &Path) -> Duration {
    let run = || {
        let begin = Instant::now();
        let output = predict(path, models, &[]).stdout(Stdio::null()).status();
        assert!(output.expect("runs").success());
        begin.elapsed()
    };
    let mut times: Vec<Duration> = (0..RUNS).map(|_| run()).collect();
    times.sort();
    times[RUNS / 2]
}

/// The most memory that the process has had, in MiB. It is asked when all is done but for what stdout does not take: a
/// pipe holds 64 KiB, and what is printed for two batches is more.
fn memory_mib(path: &Path, models: &Path) -> u64 {
    let mut child = predict(path, models, &["--batch", "1,8"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut first = [0; 1];
    stdout.read_exact(&mut first).expect("something is printed");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("read to the end");
    assert!(child.wait().expect("ends").success());
    kib.expect("the kernel tells") / 1024
}

#[test]
#[ignore = "figures of a release build; `make bench-onnx` runs it"]
fn files_are_predicted_soon_and_in_little_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("models.json");
    models::write(&models, models::TERMS_OF_A_LARGE_FIT);
    let (resnet50, deep) = (
        folder.path().join("resnet50.onnx"),
        folder.path().join("deep.onnx"),
    );
    let exported =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx/tests/networks/resnet50.onnx");
    fs::write(
        &resnet50,
        files::with_weights(&fs::read(exported).expect("there")),
    )
    .expect("written");
    fs::write(&deep, files::deep(10_000)).expect("written");
    let size = |path: &Path| fs::metadata(path).expect("there").len() as f64 / f64::from(1 << 20);
    let promises = [
        Promise {
            what: "ResNet-50 with its weights",
            path: resnet50,
            time_max: Duration::from_millis(100),
            memory_max_mib: Some(64),
        },
        Promise {
            what: "a graph of 10,000 nodes",
            path: deep,
            time_max: Duration::from_millis(300),
            memory_max_mib: None,
        },
    ];
    let mut report = format!(
        "models: {:.1} MiB\n| file | MiB | ms | at most | peak MiB | at most |\n|---|---:|---:|---:|---:|---:|\n",
        size(&models)
    );
    let mut broken = Vec::new();
    for promise in promises {
        let time = time(&promise.path, &models);
        let memory = memory_mib(&promise.path, &models);
        report.push_str(&format!(
            "| {} | {:.1} | {:.1} | {} | {memory} | {} |\n",
            promise.what,
            size(&promise.path),
            1e3 * time.as_secs_f64(),
            promise.time_max.as_millis(),
            promise
                .memory_max_mib
                .map_or("-".to_owned(), |mib| mib.to_string()),
        ));
        if time > promise.time_max || promise.memory_max_mib.is_some_and(|most| memory > most) {
            broken.push(promise.what);
        }
    }
    std::io::stdout()
        .write_all(report.as_bytes())
        .expect("shown");
    assert!(broken.is_empty(), "over: {broken:?}");
}
