//! What a user would take instead: a queue in PostgreSQL whose jobs are taken with SKIP LOCKED, driven by pgbench.
//!
//! As the farm does it: a lease is a commit, and what is brought for it another, each on the disk before it is answered; sixteen
//! jobs at a time, a record of 1 KiB each. What it has easier: no messages to check and no rules to keep (turns, budgets, late
//! reports, physics), a client in C that measures nothing else, and 32 connections in place of the farm's thousand agents, since
//! PostgreSQL has a process for each.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use wattfarm_cost::measurement::Reading;

use super::footprint::disk_mib;
use super::percentile;
use crate::database::Database;

/// What it was seen to do.
pub(super) struct Peer {
    /// Jobs a second that were taken and brought.
    pub(super) completions: f64,
    /// How long it took to take one, at a thousand a second, in ms: at p99.
    pub(super) lease_ms: f64,
    /// Of its files, for so many records.
    pub(super) disk_mib: u64,
    pub(super) records: u64,
}

const CLIENTS: u64 = 32;
const BATCH: u64 = 16;

/// Turns of each client: with a batch each, as many jobs as the farm has in a round.
const TURNS: u64 = 200;

/// More than are taken: the last ones would come in batches of less.
const JOBS: u64 = 2 * CLIENTS * TURNS * BATCH;

const TABLES: &str = "
    CREATE TABLE jobs (
        id bigint PRIMARY KEY, task text NOT NULL, state smallint NOT NULL DEFAULT 0,
        agent integer, leased_until timestamptz
    );
    CREATE INDEX waiting ON jobs (id) WHERE state = 0;
    CREATE TABLE results (
        job bigint PRIMARY KEY, agent integer NOT NULL, received_at timestamptz NOT NULL, record text NOT NULL
    );
";

fn lease(jobs: u64) -> String {
    format!(
        "WITH next AS (SELECT id FROM jobs WHERE state = 0 ORDER BY id LIMIT {jobs} FOR UPDATE SKIP LOCKED), \
         taken AS (UPDATE jobs SET state = 1, agent = :client_id, leased_until = now() + interval '25 s' \
         FROM next WHERE jobs.id = next.id RETURNING jobs.id) \
         SELECT array_agg(id) AS ids FROM taken \\gset\n"
    )
}

const REPORT: &str = "BEGIN;\n\
    INSERT INTO results SELECT job, :client_id, now(), record \
    FROM unnest(:ids::bigint[], :records::text[]) AS report (job, record);\n\
    UPDATE jobs SET state = 2 WHERE id = ANY (:ids::bigint[]) AND state = 1 AND agent = :client_id;\n\
    COMMIT;\n";

/// Has it do what the farm did. `None` where PostgreSQL or pgbench is not installed.
pub(super) fn measure(readings: &[Reading]) -> Option<Peer> {
    let database = Database::start()?;
    let pgbench = database.program("pgbench")?;
    database.run(TABLES);
    database.run(&format!(
        "INSERT INTO jobs (id, task) SELECT n, '{{\"kind\":\"linear\",\"out_features\":' || n || '}}' \
         FROM generate_series(1, {JOBS}) AS n; ANALYZE jobs; CHECKPOINT"
    ));
    let folder = tempfile::tempdir().expect("a folder");
    let script = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path
    };
    let bench = |script: &Path, arguments: &[String]| {
        let mut command = Command::new(&pgbench);
        command
            .current_dir(folder.path())
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
            .arg(format!("--client={CLIENTS}"))
            .arg(format!("--file={}", script.display()))
            .args(arguments)
            .arg(database.address())
            .stderr(Stdio::inherit());
        let output = command.output().expect("starts");
        assert!(output.status.success(), "pgbench: {output:?}");
        String::from_utf8(output.stdout).expect("plain")
    };
    let records = array(&readings[..BATCH as usize]);
    let turn = script("turn.sql", lease(BATCH) + REPORT);
    let told = bench(
        &turn,
        &[
            format!("--transactions={TURNS}"),
            format!("--define=records={records}"),
        ],
    );
    let turns = told.lines().find_map(|line| line.strip_prefix("tps = "));
    let turns = turns.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    let completions = turns.expect("it says so") * BATCH as f64;
    let disk_mib = disk_mib(&database.data());

    let one = script("lease.sql", lease(1));
    let pace = ["--rate=1000", "--time=10", "--log"].map(str::to_owned);
    bench(&one, &pace);
    Some(Peer {
        completions,
        lease_ms: percentile(&latencies(folder.path()), 99),
        disk_mib,
        records: CLIENTS * TURNS * BATCH,
    })
}

/// Records as PostgreSQL writes an array of texts.
fn array(readings: &[Reading]) -> String {
    let record = |reading: &Reading| {
        let text = serde_json::to_string(reading).expect("has only text keys");
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    };
    let records: Vec<_> = readings.iter().map(record).collect();
    format!("{{{}}}", records.join(","))
}

/// What pgbench's logs say, shortest first.
fn latencies(folder: &Path) -> Vec<Duration> {
    let files = std::fs::read_dir(folder).expect("lists").flatten();
    let logs = files.filter(|file| {
        file.file_name()
            .to_string_lossy()
            .starts_with("pgbench_log")
    });
    let mut latencies: Vec<Duration> = Vec::new();
    for log in logs {
        let text = std::fs::read_to_string(log.path()).expect("reads");
        // A client, its transaction's number, and how long it took in microseconds.
        let took = text.lines().filter_map(|line| line.split(' ').nth(2));
        latencies.extend(took.map(|took| Duration::from_micros(took.parse().expect("a number"))));
    }
    latencies.sort_unstable();
    latencies
}
