//! A connection to the database on a thread of its own: it blocks, and may be asked from any thread, also from those where
//! blocking on its sockets is forbidden.
//!
//! Nothing waits without end: the database ends a question that takes it too long, and whoever asks gives up a database
//! that says nothing at all. A connection that broke is made anew, and what was asked of it is asked once more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use postgres::error::{Severity, SqlState};
use postgres::types::ToSql;
use postgres::{Client, NoTls, Row, Statement, Transaction};

use super::super::StoreError;
use super::Address;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long anybody waits for an answer, a new connection included.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the database bounds its own time. A transaction whose coordinator is paused must not hold up whoever takes over.
const BOUNDS: &str = "SET synchronous_commit = on; SET idle_in_transaction_session_timeout = '5s'; \
                      SET lock_timeout = '10s'; SET client_min_messages = warning";

/// For questions alone: a commit that waits for a standby and is cut off by this is told as if the standby had it.
const QUESTION_BOUND: &str = "SET statement_timeout = '10s'";

type Errand = Box<dyn FnOnce(&mut Line) + Send>;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Questions, each bounded by the database.
    Read,
    /// Transactions.
    Write,
}

/// A connection. It ends when this is dropped.
pub(super) struct Session {
    address: Address,
    what_for: Use,
    /// The way to its thread; `None` once that has not answered for too long.
    errands: Mutex<Option<mpsc::Sender<Errand>>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Session")
    }
}

/// Statements that the database knows already.
#[derive(Default)]
pub(super) struct Statements(BTreeMap<String, Statement>);

impl Statements {
    pub(super) fn get(
        &mut self,
        transaction: &mut Transaction<'_>,
        sql: &str,
    ) -> Result<Statement, postgres::Error> {
        if let Some(known) = self.0.get(sql) {
            return Ok(known.clone());
        }
        let statement = transaction.prepare(sql)?;
        self.0.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// What a session's thread holds.
struct Line {
    address: Address,
    what_for: Use,
    /// `None` once it broke.
    open: Option<(Client, Statements)>,
}

impl Line {
    fn open(&mut self) -> Result<&mut (Client, Statements), StoreError> {
        if self.open.is_none() {
            let client = connect(&self.address, self.what_for)?;
            self.open = Some((client, Statements::default()));
        }
        Ok(self.open.as_mut().expect("it was just opened"))
    }

    /// Does an errand; once more if the connection turns out to be broken. A commit of which nobody knows whether it was made
    /// is made again: each says all of its records, nobody else writes under its epoch, and if the one before is still
    /// under way it has its records locked.
    fn run<T>(
        &mut self,
        doing: &'static str,
        errand: &mut impl FnMut(&mut Client, &mut Statements) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let (client, statements) = self.open()?;
        let error = match errand(client, statements) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !is_broken(&error) && !client.is_closed() {
            return Err(failed(doing)(error));
        }
        tracing::warn!(%error, "the connection to the database broke: connecting again");
        self.open = None;
        let (client, statements) = self.open()?;
        errand(client, statements).map_err(|error| {
            self.open = None;
            failed(doing)(error)
        })
    }
}

impl Session {
    pub(super) fn open(address: &Address, what_for: Use) -> Result<Self, StoreError> {
        let session = Self {
            address: address.clone(),
            what_for,
            errands: Mutex::new(None),
        };
        session.run("connect to the database", |_, _| Ok(()))?;
        Ok(session)
    }

    fn errands(&self) -> MutexGuard<'_, Option<mpsc::Sender<Errand>>> {
        self.errands.lock().expect("nothing panics while it sends")
    }

    /// Sends an errand to the thread, which is started if there is none.
    fn send(&self, errand: Errand) -> Result<(), StoreError> {
        let mut errands = self.errands();
        let sender = errands.get_or_insert_with(|| {
            let (errands, to_do) = mpsc::channel::<Errand>();
            let mut line = Line {
                address: self.address.clone(),
                what_for: self.what_for,
                open: None,
            };
            std::thread::spawn(move || {
                while let Ok(errand) = to_do.recv() {
                    errand(&mut line);
                }
            });
            errands
        });
        sender
            .send(errand)
            .map_err(|_| silent("ask the database", "the connection's thread is gone"))
    }

    /// Does something with the connection, and waits for it. It may be done twice: see [`Line::run`].
    pub(super) fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        mut errand: impl FnMut(&mut Client, &mut Statements) -> Result<T, postgres::Error>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        let (done, result) = mpsc::sync_channel(1);
        let errand: Errand = Box::new(move |line| {
            // An error means that nobody waits any more.
            let _ = done.send(line.run(doing, &mut errand));
        });
        self.send(errand)?;
        match result.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(reason) => {
                // Whoever asks next gets a new thread, and a new connection.
                *self.errands() = None;
                Err(silent(
                    doing,
                    match reason {
                        RecvTimeoutError::Timeout => "the database says nothing",
                        RecvTimeoutError::Disconnected => "the connection's thread is gone",
                    },
                ))
            }
        }
    }

    /// The rows of a query, whose parameters `ask` gives.
    pub(super) fn rows(
        &self,
        sql: String,
        ask: impl Fn(
            &mut dyn FnMut(&[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, postgres::Error>,
        ) -> Result<Vec<Row>, postgres::Error>
        + Send
        + 'static,
    ) -> Result<Vec<Row>, StoreError> {
        self.run("read the store", move |client, statements| {
            let statement = match statements.0.get(&sql) {
                Some(known) => known.clone(),
                None => {
                    let statement = client.prepare(&sql)?;
                    statements.0.insert(sql.clone(), statement.clone());
                    statement
                }
            };
            ask(&mut |parameters| client.query(&statement, parameters))
        })
    }
}

/// A connection whose commits are on the database's disk when they are told.
pub(super) fn connect(address: &Address, what_for: Use) -> Result<Client, StoreError> {
    let mut config = (*address.config).clone();
    config
        .application_name("wattfarm-coordinator")
        .connect_timeout(CONNECT)
        .tcp_user_timeout(CONNECT)
        .keepalives_idle(CONNECT);
    let doing = "connect to the database";
    let connected = match &address.tls {
        Some(tls) => config.connect(tls.clone()),
        None => config.connect(NoTls),
    };
    let mut client = connected.map_err(failed(doing))?;
    client.batch_execute(BOUNDS).map_err(failed(doing))?;
    if what_for == Use::Read {
        client
            .batch_execute(QUESTION_BOUND)
            .map_err(failed(doing))?;
    }
    Ok(client)
}

/// Whether nothing more can be asked of the connection.
fn is_broken(error: &postgres::Error) -> bool {
    match error
        .as_db_error()
        .map(postgres::error::DbError::parsed_severity)
    {
        Some(severity) => matches!(severity, Some(Severity::Fatal | Severity::Panic)),
        None => true,
    }
}

pub(super) fn failed(doing: &'static str) -> impl Fn(postgres::Error) -> StoreError {
    move |error| match error.code() {
        Some(&SqlState::DISK_FULL) => StoreError::Full("the database".into()),
        Some(&SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE) => StoreError::Away {
            doing,
            source: Box::new(error),
        },
        _ if is_broken(&error) => StoreError::Away {
            doing,
            source: Box::new(error),
        },
        _ => StoreError::Disk {
            doing,
            source: Box::new(error),
        },
    }
}

fn silent(doing: &'static str, why: &'static str) -> StoreError {
    StoreError::Away {
        doing,
        source: why.into(),
    }
}
