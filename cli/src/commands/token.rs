//! `wattfarm token`: one-time tokens that enrol agents.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_proto::connect::unary;
use wattfarm_proto::v1::CreateTokenRequest;

use crate::args::TokenCommand;
use crate::output::{Output, Report, note};
use crate::render::number::time;
use crate::session::Session;

/// A token. As text it is the token alone, for a shell to take.
#[derive(Serialize)]
struct Token {
    token: String,
    expires_at_ms: u64,
}

impl Report for Token {
    fn text(&self) -> String {
        self.token.clone()
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    command: TokenCommand,
) -> anyhow::Result<()> {
    let TokenCommand::Create { note: purpose, ttl } = command;
    let request = CreateTokenRequest {
        note: purpose,
        ttl_seconds: ttl.seconds,
    };
    let created = session
        .operator()
        .await?
        .farm()
        .create_token(unary(request))
        .await;
    let created = created.context("create a token")?.into_inner();
    output.show(&Token {
        token: created.token,
        expires_at_ms: created.expires_at_ms,
    })?;
    note(format!(
        "enrols one agent, until {}",
        time(created.expires_at_ms)
    ));
    Ok(())
}
