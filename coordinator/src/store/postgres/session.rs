//! A connection to the database on a thread of its own: it blocks, and may be asked from any thread, also from those where
//! blocking on its sockets is forbidden.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use postgres::types::ToSql;
use postgres::{Client, NoTls, Row, Statement, Transaction};

use super::super::StoreError;
use super::Address;

/// A database that does not answer for so long is gone.
const TIMEOUT: Duration = Duration::from_secs(10);

type Errand = Box<dyn FnOnce(&mut Client, &mut Statements) + Send>;

/// A connection. It ends when this is dropped.
pub(super) struct Session(mpsc::Sender<Errand>);

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

impl Session {
    pub(super) fn open(address: &Address) -> Result<Self, StoreError> {
        let (ready, opened) = mpsc::sync_channel(1);
        let (errands, to_do) = mpsc::channel::<Errand>();
        let address = address.clone();
        std::thread::spawn(move || {
            // An error, here and below, means that nobody waits any more.
            match connect(&address) {
                Ok(mut client) => {
                    let _ = ready.send(Ok(()));
                    let mut statements = Statements::default();
                    while let Ok(errand) = to_do.recv() {
                        errand(&mut client, &mut statements);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        opened
            .recv()
            .map_err(|_| gone("connect to the database"))??;
        Ok(Self(errands))
    }

    /// Does something with the connection, and waits for it.
    pub(super) fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        errand: impl FnOnce(&mut Client, &mut Statements) -> Result<T, postgres::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, result) = mpsc::sync_channel(1);
        let errand: Errand = Box::new(move |client, statements| {
            let _ = done.send(errand(client, statements));
        });
        self.0.send(errand).map_err(|_| gone(doing))?;
        result
            .recv()
            .map_err(|_| gone(doing))?
            .map_err(failed(doing))
    }

    /// The rows of a query, whose parameters `ask` gives.
    pub(super) fn rows(
        &self,
        sql: String,
        ask: impl FnOnce(
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
                    statements.0.insert(sql, statement.clone());
                    statement
                }
            };
            ask(&mut |parameters| client.query(&statement, parameters))
        })
    }
}

/// A connection whose commits are on the database's disk when they are told.
pub(super) fn connect(address: &Address) -> Result<Client, StoreError> {
    let mut config = (*address.config).clone();
    config
        .application_name("wattfarm-coordinator")
        .connect_timeout(TIMEOUT)
        .tcp_user_timeout(TIMEOUT)
        .keepalives_idle(TIMEOUT);
    let doing = "connect to the database";
    // A coordinator that is paused in a commit must not hold up whoever takes over.
    let mut client = config.connect(NoTls).map_err(failed(doing))?;
    client
        .batch_execute("SET synchronous_commit = on; SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '10s'; SET client_min_messages = warning")
        .map_err(failed(doing))?;
    Ok(client)
}

pub(super) fn failed(doing: &'static str) -> impl Fn(postgres::Error) -> StoreError {
    move |error| match error.code() {
        Some(&postgres::error::SqlState::DISK_FULL) => StoreError::Full("the database".into()),
        _ => StoreError::Disk {
            doing,
            source: Box::new(error),
        },
    }
}

fn gone(doing: &'static str) -> StoreError {
    StoreError::Disk {
        doing,
        source: "the connection to the database is gone".into(),
    }
}
