//! What predicts: models from a file or the shelf, or the coordinator.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use wattfarm_cost::model::{self, NetworkPrediction};
use wattfarm_cost::{ModelSet, Network};
use wattfarm_proto::connect::Connection;

use crate::args::PredictorArgs;
use crate::exit::{Exit, Failure};
use crate::output::note;
use crate::session::Session;
use crate::{farm, shelf};

/// Predicts networks on one platform.
pub(crate) enum Predictor {
    /// Here.
    Models(Box<ModelSet>),
    /// By asking the coordinator.
    Platform {
        connection: Connection,
        platform: String,
    },
}

impl Predictor {
    /// The one that the command line names.
    pub(crate) async fn open(session: &Session, args: &PredictorArgs) -> anyhow::Result<Self> {
        let shelf = shelf::folders(args.shelf.shelf.as_deref());
        match (&args.of.models, &args.of.platform) {
            (Some(path), _) => Self::of_file(path, &shelf),
            (None, platform) => {
                let platform = platform
                    .as_deref()
                    .expect("the command line has a platform where it has no models");
                Self::of_platform(session, platform, &shelf).await
            }
        }
    }

    /// The models of a file that `wattfarm fetch` wrote, or, if there is none of that name, of the platform that is found
    /// by it on the shelf.
    pub(crate) fn of_file(path: &Path, shelf: &[PathBuf]) -> anyhow::Result<Self> {
        if !path.exists() && path.extension().is_none_or(|extension| extension != "json") {
            let models = shelf::find(&path.to_string_lossy(), shelf)?;
            return Ok(Self::Models(Box::new(models)));
        }
        let unusable = || Failure::new(Exit::Usage, format!("read models from {}", path.display()));
        let text = fs::read_to_string(path).with_context(unusable)?;
        let models: ModelSet = serde_json::from_str(&text).with_context(unusable)?;
        models.check().with_context(unusable)?;
        Ok(Self::Models(Box::new(models)))
    }

    /// The coordinator, for a platform (slug or hash). What it has is newer than what lies on a shelf; that serves where no
    /// coordinator is there, or one without models of the platform.
    pub(crate) async fn of_platform(
        session: &Session,
        platform: &str,
        shelf: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let farm = Self::of_farm(session, platform).await;
        let Some(folder) = shelf::folder_of(platform, shelf) else {
            return farm;
        };
        let why = match &farm {
            Ok(Self::Platform { connection, .. })
                if farm::has_models(connection, platform).await? =>
            {
                return farm;
            }
            Ok(_) => "the coordinator has no models of the platform",
            Err(error) if Exit::of(error) == Exit::Unreachable => "there is no coordinator",
            Err(_) => return farm,
        };
        note(format!(
            "{why}: `{platform}` is predicted by what lies in {}",
            folder.display()
        ));
        Ok(Self::Models(Box::new(shelf::find(platform, shelf)?)))
    }

    /// The coordinator and nothing else, for a platform (slug or hash).
    pub(crate) async fn of_farm(session: &Session, platform: &str) -> anyhow::Result<Self> {
        Ok(Self::Platform {
            connection: session.designer().await?,
            platform: platform.to_owned(),
        })
    }

    /// The models themselves.
    pub(crate) async fn models(&self) -> anyhow::Result<ModelSet> {
        match self {
            Self::Models(models) => Ok((**models).clone()),
            Self::Platform {
                connection,
                platform,
            } => farm::fetch_models(connection, platform).await,
        }
    }

    pub(crate) async fn predict(&self, network: &Network) -> anyhow::Result<NetworkPrediction> {
        match self {
            Self::Models(models) => Ok(model::predict(network, models)),
            Self::Platform {
                connection,
                platform,
            } => farm::predict(connection, platform, network).await,
        }
    }
}
