//! The store in PostgreSQL: a real one, started for each test, where its programs are installed.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wattfarm_coordinator::certs::Certificates;
use wattfarm_coordinator::farm::{Change, SecretHash, Timestamp, Token};
use wattfarm_coordinator::store::{
    Address, DurableStore, Existing, Place, Shard, Store, StoreError, Tenure, verify,
};

use crate::store::{conforms, open};
use crate::store_dump::{lived_since, told};

/// A PostgreSQL of a test's own.
pub(crate) struct Database {
    folder: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Database {
    /// `None` where PostgreSQL isn't installed, and says so.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(5432, |_, _| vec!["listen_addresses=".to_owned()])
    }

    /// With settings, `NAME=VALUE` each, for which files may be made in its folder, of its user and group if that isn't ours.
    fn start_with(
        port: u16,
        settings: impl FnOnce(&Path, Option<(u32, u32)>) -> Vec<String>,
    ) -> Option<Self> {
        let Some(programs) = programs() else {
            println!("SKIPPED: PostgreSQL is not installed (on Debian and Ubuntu: postgresql)");
            return None;
        };
        // Not below the target folder: a socket's path may have about a hundred bytes.
        let folder = tempfile::tempdir_in("/tmp").expect("a folder");
        let user = unprivileged();
        if let Some((user, group)) = user {
            chown(folder.path(), Some(user), Some(group)).expect("root may");
        }
        let as_user = |program: &str| {
            let program = programs.join(program);
            let mut command = match user {
                None => Command::new(program),
                Some((user, group)) => {
                    let mut command = Command::new("setpriv");
                    command.args([format!("--reuid={user}"), format!("--regid={group}")]);
                    command.arg("--clear-groups").arg(program);
                    command
                }
            };
            command.current_dir("/").stdout(Stdio::null());
            command
        };
        let data = folder.path().join("data");
        let made = as_user("initdb")
            .args([
                "--username=farm",
                "--auth=trust",
                "--no-sync",
                "--no-locale",
                "-D",
            ])
            .arg(&data)
            .status();
        assert!(made.expect("initdb starts").success());
        let process = as_user("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-p", &port.to_string(), "-c", "log_min_messages=fatal"])
            .args(
                settings(folder.path(), user)
                    .iter()
                    .flat_map(|setting| ["-c", setting]),
            )
            .spawn();
        let database = Self {
            process: process.expect("starts"),
            folder,
            port,
        };
        let began = Instant::now();
        while postgres::Client::connect(&database.address(), postgres::NoTls).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "it does not answer"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(database)
    }

    pub(crate) fn address(&self) -> String {
        format!(
            "postgres://farm@/postgres?host={}&port={}",
            self.folder.path().display(),
            self.port
        )
    }

    /// Where it keeps its files.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn place(&self) -> Place {
        self.address().parse().expect("an address")
    }

    /// A program that comes with it; `None` if it isn't there.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let path = programs()?.join(name);
        path.exists().then_some(path)
    }

    /// Takes charge of a shard.
    fn claim(&self, shard: Shard) -> Option<(DurableStore, Tenure)> {
        let address: Address = self.address().parse().expect("an address");
        address.claim(shard, "nowhere").expect("answers")
    }

    pub(crate) fn run(&self, sql: &str) {
        let mut client =
            postgres::Client::connect(&self.address(), postgres::NoTls).expect("connects");
        client.batch_execute(sql).expect("runs");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // An interrupt: it ends its connections and its processes.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-INT", &id]).status();
        let _ = self.process.wait();
    }
}

/// The folder of `initdb` and `postgres`, of the newest version if there are several.
fn programs() -> Option<PathBuf> {
    let on_path = std::env::split_paths(&std::env::var_os("PATH")?).collect::<Vec<_>>();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    let mut folders = folders.into_iter().rev().chain(on_path);
    folders.find(|folder| {
        ["initdb", "postgres"]
            .iter()
            .all(|name| folder.join(name).exists())
    })
}

/// The user and group to run it as, where we are root: it refuses to run as that.
fn unprivileged() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").expect("Linux").uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("reads");
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let is_it = fields.first() == Some(&name);
            is_it.then(|| {
                (
                    fields[2].parse().expect("a number"),
                    fields[3].parse().expect("a number"),
                )
            })
        })
    };
    find("postgres").or_else(|| find("nobody"))
}

/// A commit that is told apart from others.
fn token(number: u64) -> Vec<Change> {
    let token = Token {
        note: String::new(),
        expires_at: Timestamp(number),
        used_by: None,
    };
    vec![Change::Token(SecretHash::of(&number.to_string()), token)]
}

fn tokens(store: &DurableStore) -> usize {
    store.load().expect("loads").tokens.len()
}

/// The store of a farm that has one shard.
fn only(existing: Existing) -> DurableStore {
    let mut shards = existing.into_shards();
    assert_eq!(shards.len(), 1);
    shards.pop().expect("one")
}

#[test]
fn postgres_conforms() {
    let Some(database) = Database::start() else {
        return;
    };
    let place = database.place();
    place.make(|_| Ok(())).expect("there is none");
    conforms(&|| Arc::new(only(place.existing().expect("there is one"))));
}

/// From a folder into a database and back: all that can be asked of it is the same, and nothing is made by half.
#[test]
fn a_store_moves_to_a_database_and_back() {
    let Some(database) = Database::start() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = lived_since();
    let first = open(&folder.path().join("first"));
    for changes in world.take_changes() {
        first.commit(&changes).expect("commits");
    }
    drop(first);
    let refused = database.place().existing().expect_err("there is none yet");
    assert!(
        refused.to_string().contains("holds no store"),
        "{refused:#}"
    );
    let half = database.place().make(|store| -> anyhow::Result<()> {
        store.commit(&token(1)).expect("commits");
        anyhow::bail!("the file was cut off")
    });
    assert!(half.is_err());
    let refused = database.place().existing().expect_err("it is a part");
    assert!(
        refused.to_string().contains("drop the schema"),
        "{refused:#}"
    );
    database.run("DROP SCHEMA wattfarm CASCADE");

    let address = database.address();
    let migrate = |from: &str, to: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wattfarm-coordinator"));
        let output = command
            .args(["--store", from, "migrate", to])
            .output()
            .expect("starts");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let (first, second) = (
        format!("sled:{}", first.display()),
        format!("sled:{}", second.display()),
    );
    let (good, log) = migrate(&first, &address);
    assert!(good && log.contains("migrated"), "{log}");
    let (good, log) = migrate(&first, &address);
    assert!(!good && log.contains("holds a store already"), "{log}");
    let (good, log) = migrate(&address, &second);
    assert!(good, "{log}");
    let truth = told(&world.store);
    assert_eq!(
        told(&only(database.place().existing().expect("whole"))),
        truth
    );
    let back = open(&folder.path().join("second"));
    assert_eq!(told(&back), truth);
    verify(&back).expect("sound");
}

/// The process ids of a coordinator's connections, but for the one that it is in charge by.
fn connections(client: &mut postgres::Client) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'wattfarm-coordinator' \
               AND pid NOT IN (SELECT backend FROM wattfarm.in_charge) ORDER BY backend_start";
    let rows = client.query(sql, &[]).expect("answers");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Connections that are cut again and again, in the middle of reads and of commits: each is made anew, and what was asked is
/// answered.
#[test]
fn a_connection_that_breaks_is_made_anew() {
    let Some(database) = Database::start() else {
        return;
    };
    let (store, _tenure) = database.claim(Shard::HOME).expect("a new one");
    store.commit(&token(0)).expect("commits");
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let reads = threads.spawn(|| {
            let mut reads = 0_u32;
            while !done.load(Ordering::Relaxed) {
                assert!(tokens(&store) > 0);
                reads += 1;
            }
            reads
        });
        let commits = threads.spawn(|| {
            let mut commits = 0;
            while !done.load(Ordering::Relaxed) {
                commits += 1;
                store.commit(&token(commits)).expect("commits");
            }
            commits
        });
        let mut client =
            postgres::Client::connect(&database.address(), postgres::NoTls).expect("connects");
        let mut cut = 0;
        for _ in 0..20 {
            for pid in connections(&mut client) {
                let ended = client.query_one("SELECT pg_terminate_backend($1)", &[&pid]);
                cut += u32::from(ended.expect("answers").get::<_, bool>(0));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        done.store(true, Ordering::Relaxed);
        let (reads, commits) = (
            reads.join().expect("reads"),
            commits.join().expect("commits"),
        );
        println!("{cut} cut, {reads} reads, {commits} commits");
        assert!(cut >= 30, "{cut} cut");
        assert_eq!(tokens(&store) as u64, commits + 1);
    });
    drop(store);
}

/// A database that is stuck makes errors, not waits without end; once it goes on, so do we.
#[test]
fn a_stuck_database_is_an_error() {
    let Some(database) = Database::start() else {
        return;
    };
    let (store, _tenure) = database.claim(Shard::HOME).expect("a new one");
    store.commit(&token(1)).expect("commits");
    let connect = || postgres::Client::connect(&database.address(), postgres::NoTls);
    let mut client = connect().expect("connects");
    let mut locker = connect().expect("connects");
    let mut lock = locker.transaction().expect("begins");
    lock.batch_execute("LOCK TABLE wattfarm.tokens")
        .expect("locks");
    let away = |result: Result<usize, StoreError>| {
        assert!(matches!(result, Err(StoreError::Away { .. })), "{result:?}");
    };
    let read = || store.load().map(|records| records.tokens.len());
    let began = Instant::now();
    std::thread::scope(|threads| {
        // Each is given up by the database.
        let commit = threads.spawn(|| away(store.commit(&token(2)).map(|()| 0)));
        away(read());
        commit.join().expect("an error");
    });
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    drop(lock);
    assert_eq!(read().expect("it is free"), 1);

    // Its processes stand still, and say nothing at all.
    let pids: Vec<String> = connections(&mut client)
        .iter()
        .map(i32::to_string)
        .collect();
    let signal = |name: &str| Command::new("kill").arg(name).args(&pids).status();
    assert!(signal("-STOP").expect("runs").success());
    let began = Instant::now();
    away(read());
    assert!(
        began.elapsed() < Duration::from_secs(35),
        "{:?}",
        began.elapsed()
    );
    // By another connection.
    assert_eq!(read().expect("others go on"), 1);
    assert!(signal("-CONT").expect("runs").success());
}

/// Encrypted, with whom the given authority vouches for, and with nobody else.
#[test]
fn the_database_is_spoken_to_over_tls() {
    let certificates = tempfile::tempdir().expect("a folder");
    let (ours, others) = (
        Certificates::within(&certificates.path().join("ours")),
        Certificates::within(&certificates.path().join("others")),
    );
    for certificates in [&ours, &others] {
        certificates
            .make(&["localhost".to_owned()])
            .expect("makes them");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("has one").port();
    drop(listener);
    let database = Database::start_with(port, |folder, user| {
        let own = |from: PathBuf, name: &str| {
            let file = folder.join(name);
            std::fs::copy(from, &file).expect("copies");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("ours");
            if let Some((user, group)) = user {
                chown(&file, Some(user), Some(group)).expect("root may");
            }
            file.display().to_string()
        };
        vec![
            "listen_addresses=127.0.0.1".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", own(ours.coordinator(), "cert.pem")),
            format!("ssl_key_file={}", own(ours.coordinator_key(), "key.pem")),
        ]
    });
    let Some(database) = database else {
        return;
    };
    let place = |host: &str, authority: &Certificates| {
        let authority = authority.authority();
        let address = format!(
            "postgres://farm@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={}",
            authority.display()
        );
        address.parse::<Address>().expect("an address")
    };
    let claimed = place("localhost", &ours).claim(Shard::HOME, "nowhere");
    let (store, _tenure) = claimed.expect("trusted").expect("free");
    store.commit(&token(1)).expect("commits");
    let mut client =
        postgres::Client::connect(&database.address(), postgres::NoTls).expect("connects");
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE ssl AND application_name = 'wattfarm-coordinator'";
    let row = client.query_one(encrypted, &[]).expect("answers");
    assert_eq!(row.get::<_, i64>(0), 3);
    for (host, authority) in [("localhost", &others), ("127.0.0.1", &ours)] {
        let refused = place(host, authority).claim(Shard::HOME, "nowhere");
        let refused = format!(
            "{:#}",
            anyhow::Error::from(refused.expect_err("not trusted"))
        );
        assert!(refused.contains("certificate"), "{refused}");
    }
}

/// Whoever was replaced, as after a pause, writes nothing more, and hears of it; who took over has all that was committed. So
/// for each shard, whoever has the others.
#[test]
fn who_was_replaced_can_write_nothing() {
    let Some(database) = Database::start() else {
        return;
    };
    let place = database.place();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("starts");
    let mut taken = Vec::new();
    assert!(database.claim(Shard::HOME).is_some(), "made where it isn't");
    let address: Address = database.address().parse().expect("an address");
    address.make_others(0).expect("makes them");
    for shard in Shard::all() {
        let (first, tenure) = database.claim(shard).expect("free");
        first.commit(&token(1)).expect("commits");
        assert!(database.claim(shard).is_none(), "it is in use");
        let refused = place.existing().expect_err("it is in use");
        let refused = refused.downcast_ref::<StoreError>();
        assert!(matches!(refused, Some(StoreError::InUse(_))), "{refused:?}");

        // Its time is over, and it has not noticed.
        let schema = match shard.number() {
            0 => "wattfarm".to_owned(),
            number => format!("wattfarm_{number}"),
        };
        database.run(&format!("UPDATE {schema}.in_charge SET ends = '-infinity'"));
        let (second, second_tenure) = database.claim(shard).expect("the place is free");
        assert_eq!(tokens(&second), 1);
        let refused = first.commit(&token(2)).expect_err("it was replaced");
        assert!(matches!(refused, StoreError::TakenOver), "{refused}");
        second.commit(&token(3)).expect("commits");
        let lost = runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(20), tenure.lost()).await });
        lost.expect("the one that was replaced hears of it");
        assert_eq!(tokens(&second), 2);

        // A commit under way, and a takeover: one waits for the other, and no commit is made under two.
        drop((first, tenure));
        second
            .commit(&token(4))
            .expect("the end of the other is not its own");
        taken.push((second, second_tenure));
    }
    for (store, _) in &taken {
        store.commit(&token(5)).expect("each is its own");
        assert_eq!(tokens(store), 4);
    }
}
