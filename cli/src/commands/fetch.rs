//! `wattfarm fetch`: take a platform's models along.

use std::io::{self, Write as _};

use crate::args::FetchArgs;
use crate::output::note;
use crate::session::Session;
use crate::{farm, files, shelf};

pub(super) async fn run(session: &Session, args: FetchArgs) -> anyhow::Result<()> {
    let models = farm::fetch_models(&session.designer().await?, &args.platform).await?;
    let mut json = serde_json::to_vec_pretty(&models)?;
    json.push(b'\n');
    match (&args.shelf, &args.output) {
        (Some(folder), _) => {
            shelf::put(&models, folder)?;
        }
        (None, Some(path)) => files::write(path, &json)?,
        (None, None) => io::stdout().write_all(&json)?,
    }
    note(format!("{} models of {}", models.models.len(), models.slug));
    Ok(())
}
