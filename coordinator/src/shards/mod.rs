//! Several coordinators over one database: each is in charge of some of the farm's shards, and passes calls for the others'
//! on to them.
//!
//! A shard is a whole farm of its own, with its writer and its store; nothing of how a farm works knows of shards. Beside
//! that is a *board* of who has what, a *keeper* that takes shards and gives them up, and the *front*, which takes all calls.

mod front;
mod gather;
mod keeper;
mod pass;
mod raw;
mod route;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::ClientTlsConfig;

use crate::farm::{Role, SecretHash};
use crate::store::{Common, Shard, View};

pub(crate) use front::routes;
pub(crate) use keeper::Keeper;

/// What a coordinator needs to know to be one of several.
#[derive(Clone)]
pub(crate) struct Post {
    /// Where the others reach it, `HOST:PORT`.
    pub(crate) address: String,
    /// How it calls them; `None` for in the clear.
    pub(crate) tls: Option<ClientTlsConfig>,
    /// Which all of them have.
    pub(crate) operator_key: SecretHash,
    /// What a caller without a key may do; `None` for nothing.
    pub(crate) anonymous: Option<Role>,
    /// The way to what is common.
    pub(crate) common: Arc<Common>,
}

impl Post {
    /// By which coordinators know each other: of a call that was passed on its front believes what only it can know.
    fn password(&self) -> String {
        let key = blake3::derive_key("wattfarm.v1 coordinators", self.operator_key.as_bytes());
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Who has what, as far as is known.
pub(crate) struct Board {
    /// The services of the shards that are here.
    here: Mutex<BTreeMap<Shard, Routes>>,
    /// What was last seen of the others.
    view: watch::Sender<View>,
}

impl Board {
    pub(crate) fn new(view: View) -> Self {
        Self {
            here: Mutex::default(),
            view: watch::Sender::new(view),
        }
    }

    fn here(&self) -> MutexGuard<'_, BTreeMap<Shard, Routes>> {
        self.here.lock().expect("nothing panics while it is held")
    }

    /// The shards that there are.
    fn shards(&self) -> Vec<Shard> {
        self.view.borrow().shards.keys().copied().collect()
    }

    /// The shard that gave a number of this block: one that the block was made for, or the home, which has all of a store
    /// that was brought in.
    fn shard_of_block(&self, block: u64) -> Shard {
        let view = self.view.borrow();
        let others = view
            .shards
            .iter()
            .filter(|(shard, _)| **shard != Shard::HOME);
        let mut of_it = others.filter(|(_, seen)| seen.block == block);
        of_it.next().map_or(Shard::HOME, |(shard, _)| *shard)
    }
}
