//! `wattfarm keys`: who may look, who may ask, who may operate the farm.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_proto::connect::unary;
use wattfarm_proto::convert::required;
use wattfarm_proto::v1;

use crate::args::{KeysCommand, Role};
use crate::output::{Output, Report, note};
use crate::render::number::{time, time_or_none};
use crate::render::table::{Column, table};
use crate::session::Session;

#[derive(Serialize)]
struct Key {
    id: String,
    name: String,
    role: &'static str,
    created_at_ms: u64,
    expires_at_ms: Option<u64>,
}

impl From<v1::Key> for Key {
    fn from(key: v1::Key) -> Self {
        Self {
            role: role_name(key.role()),
            id: key.key_id,
            name: key.name,
            created_at_ms: key.created_at_ms,
            expires_at_ms: key.expires_at_ms,
        }
    }
}

fn role_name(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Unspecified => "unknown",
        v1::Role::Read => "read",
        v1::Role::Request => "request",
        v1::Role::Operate => "operate",
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Read => Self::Read,
            Role::Request => Self::Request,
            Role::Operate => Self::Operate,
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Keys(Vec<Key>);

impl Report for Keys {
    fn text(&self) -> String {
        let columns = [
            Column::Left("key"),
            Column::Left("name"),
            Column::Left("role"),
            Column::Left("made"),
            Column::Left("ends"),
        ];
        let row = |key: &Key| {
            [
                key.id.clone(),
                key.name.clone(),
                key.role.to_owned(),
                time(key.created_at_ms),
                time_or_none(key.expires_at_ms),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

/// A new key. As text it is the key alone, for a shell to put into a file.
#[derive(Serialize)]
struct NewKey {
    key: String,
    #[serde(flatten)]
    description: Key,
}

impl Report for NewKey {
    fn text(&self) -> String {
        self.key.clone()
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    command: KeysCommand,
) -> anyhow::Result<()> {
    let mut farm = session.operator().await?.farm();
    match command {
        KeysCommand::Create { name, role, ttl } => {
            let request = v1::CreateKeyRequest {
                name,
                role: v1::Role::from(role).into(),
                ttl_seconds: ttl.map_or(0, |ttl| ttl.seconds),
            };
            let created = farm.create_key(unary(request)).await;
            let created = created.context("create a key")?.into_inner();
            let description = Key::from(required("description", created.description)?);
            note(format!(
                "key {} of `{}`, for `{}`",
                description.id, description.name, description.role
            ));
            output.show(&NewKey {
                key: created.key,
                description,
            })
        }
        KeysCommand::List => {
            let listed = farm.list_keys(unary(v1::ListKeysRequest {})).await;
            let keys = listed.context("list the keys")?.into_inner().keys;
            output.show(&Keys(keys.into_iter().map(Key::from).collect()))
        }
        KeysCommand::Revoke { id } => {
            let request = v1::RevokeKeyRequest {
                key_id: id.to_string(),
            };
            farm.revoke_key(unary(request))
                .await
                .context("revoke the key")?;
            note(format!("key {id} is revoked"));
            Ok(())
        }
    }
}
