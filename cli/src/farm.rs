//! What several commands and the demo ask of a coordinator: convert, call, convert back.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};
use tonic::{Status, Streaming};
use wattfarm_cost::model::{NetworkPrediction, Total};
use wattfarm_cost::{Hash, Measurement, ModelSet, Network, Platform, Subject};
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::convert::{each, parse, required};
use wattfarm_proto::{error, v1};

use crate::output::note;

/// How long a coordinator may be away before a command that follows something gives up.
const OUTAGE_MAX: Duration = Duration::from_secs(120);
/// How long such a command waits before it asks again.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// A coordinator that went away while a command followed something: as after a restart, it may come back.
#[derive(Default)]
pub(crate) struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// The coordinator answers.
    pub(crate) fn is_over(&mut self) {
        self.since = None;
    }

    /// Waits a little before another try.
    ///
    /// # Errors
    /// `error` itself where it says anything else than that the coordinator is away, or it has been so for too long.
    pub(crate) async fn bear(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        let away = |status: &Status| {
            error::is_transient(status)
                && matches!(error::reason(status).as_str(), "" | "SHUTTING_DOWN")
        };
        let status = error.chain().find_map(|cause| cause.downcast_ref());
        if !status.is_some_and(away) {
            return Err(error);
        }
        let since = *self.since.get_or_insert_with(|| {
            note("the coordinator is away: waiting for it");
            Instant::now()
        });
        if since.elapsed() >= OUTAGE_MAX {
            return Err(error);
        }
        sleep(OUTAGE_PAUSE).await;
        Ok(())
    }
}

/// The newest models of a platform.
pub(crate) async fn fetch_models(
    connection: &Connection,
    platform: &str,
) -> anyhow::Result<ModelSet> {
    let request = v1::GetModelsRequest {
        platform: platform.to_owned(),
        kinds: vec![],
    };
    let doing = || format!("fetch the models of `{platform}`");
    let mut parts = connection
        .models()
        .get_models(unary(request))
        .await
        .with_context(doing)?
        .into_inner();
    let mut of = None;
    let mut models = Vec::new();
    while let Some(message) = parts.message().await.with_context(doing)? {
        match required("part", message.part)? {
            v1::get_models_response::Part::Header(header) => {
                of = Some(PlatformNames::try_from(header)?)
            }
            v1::get_models_response::Part::Model(model) => models.push(model.try_into()?),
        }
    }
    let of = required("header", of)?;
    let models = ModelSet::new(of.slug, of.platform, models);
    models.check()?;
    Ok(models)
}

/// Whether the coordinator has models of a platform (slug or hash).
pub(crate) async fn has_models(connection: &Connection, platform: &str) -> anyhow::Result<bool> {
    let answer = connection
        .models()
        .list_platforms(unary(v1::ListPlatformsRequest {}))
        .await
        .context("list the platforms")?;
    let platforms = answer.into_inner().platforms;
    let mut named = platforms
        .iter()
        .filter(|own| own.slug == platform || own.hash == platform);
    Ok(named.any(|own| own.models > 0))
}

/// A network's prediction by the coordinator.
pub(crate) async fn predict(
    connection: &Connection,
    platform: &str,
    network: &Network,
) -> anyhow::Result<NetworkPrediction> {
    // The graph, and not only its name: what is predicted here and measured there is one network, whatever versions.
    let graph = v1::predict_request::Network::Graph(network.into());
    let request = v1::PredictRequest {
        platform: platform.to_owned(),
        network: Some(graph),
        batch: None,
    };
    let doing = || format!("predict `{}` on `{platform}`", network.name());
    let mut parts = connection
        .models()
        .predict(unary(request))
        .await
        .with_context(doing)?
        .into_inner();
    let mut layers = Vec::new();
    let mut summary = None;
    while let Some(message) = parts.message().await.with_context(doing)? {
        match required("part", message.part)? {
            v1::predict_response::Part::Layer(layer) => layers.push(layer.try_into()?),
            v1::predict_response::Part::Summary(last) => summary = Some(last),
        }
    }
    let summary = required("summary", summary)?;
    Ok(NetworkPrediction {
        network: summary.network,
        batch: summary.batch,
        platform: summary.platform,
        layers,
        total: Total {
            runtime_ms: summary.runtime_ms,
            runtime_ms_low: summary.runtime_ms_low,
            runtime_ms_high: summary.runtime_ms_high,
            power_w: summary.power_w,
            energy_mj: summary.energy_mj,
            energy_mj_per_item: summary.energy_mj_per_item,
            flops: summary.flops,
            parameters: summary.parameters,
            items_per_s: summary.items_per_s,
            peak_activation_bytes: summary.peak_activation_bytes,
        },
        warnings: summary.warnings,
    })
}

/// What came of measuring networks.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Every measurement, in the order in which they came.
    pub(crate) measurements: Vec<Measurement>,
    /// Those networks that will not be measured: their hash, and why.
    pub(crate) failures: Vec<(Hash, String)>,
}

impl Measured {
    /// The measurements of one network, oldest first.
    pub(crate) fn of(&self, network: &Network) -> Vec<&Measurement> {
        let hash = network.hash();
        let mut found: Vec<_> = self
            .measurements
            .iter()
            .filter(|found| found.subject.hash() == hash)
            .collect();
        found.sort_by_key(|measurement| measurement.sequence);
        found
    }

    /// The newest measurement of a subject.
    pub(crate) fn newest(&self, subject: Hash) -> Option<&Measurement> {
        let own = self
            .measurements
            .iter()
            .filter(|found| found.subject.hash() == subject);
        own.max_by_key(|found| found.sequence)
    }

    /// Why a network will not be measured.
    pub(crate) fn failure(&self, network: &Network) -> Option<&str> {
        let hash = network.hash();
        self.failures
            .iter()
            .find(|(failed, _)| *failed == hash)
            .map(|(_, because)| because.as_str())
    }
}

/// Measures networks until each has `replicas` measurements, older ones included. `waiting` is told why nothing comes.
/// Goes on when the coordinator has been away: the same order is not taken twice.
pub(crate) async fn measure(
    connection: &Connection,
    platform: &str,
    networks: &[Network],
    replicas: u32,
    waiting: impl FnMut(&str),
) -> anyhow::Result<Measured> {
    let subjects = networks.iter().cloned().map(Subject::Network);
    let subjects: Vec<Subject> = subjects.collect();
    measure_subjects(connection, platform, &subjects, replicas, waiting).await
}

/// The same for layers and networks.
pub(crate) async fn measure_subjects(
    connection: &Connection,
    platform: &str,
    subjects: &[Subject],
    replicas: u32,
    mut waiting: impl FnMut(&str),
) -> anyhow::Result<Measured> {
    let subjects = subjects.iter().map(Into::into).collect();
    let request = v1::MeasureRequest {
        platform: platform.to_owned(),
        subjects,
        replicas,
    };
    let mut outage = Outage::default();
    loop {
        let order = order(connection, request.clone(), &mut waiting, &mut outage);
        match order.await {
            Ok(measured) => return Ok(measured),
            Err(error) => outage.bear(error).await?,
        }
    }
}

async fn order(
    connection: &Connection,
    request: v1::MeasureRequest,
    waiting: &mut impl FnMut(&str),
    outage: &mut Outage,
) -> anyhow::Result<Measured> {
    let platform = request.platform.clone();
    let doing = || format!("measure on `{platform}`");
    let mut parts = connection
        .models()
        .measure(request)
        .await
        .with_context(doing)?
        .into_inner();
    let mut measured = Measured::default();
    while let Some(message) = parts.message().await.with_context(doing)? {
        outage.is_over();
        match required("part", message.part)? {
            v1::measure_response::Part::Measurement(measurement) => {
                measured.measurements.push(measurement.try_into()?);
            }
            v1::measure_response::Part::Failure(failure) => {
                let hash = parse("subject_hash", &failure.subject_hash)?;
                measured.failures.push((hash, failure.because));
            }
            v1::measure_response::Part::Waiting(because) => waiting(&because),
        }
    }
    Ok(measured)
}

/// What a platform is called, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlatformNames {
    pub(crate) slug: String,
    pub(crate) hash: Hash,
    pub(crate) platform: Platform,
}

impl TryFrom<v1::PlatformHeader> for PlatformNames {
    type Error = wattfarm_proto::error::FieldError;

    fn try_from(header: v1::PlatformHeader) -> Result<Self, Self::Error> {
        Ok(Self {
            slug: header.slug,
            hash: parse("header.hash", &header.hash)?,
            platform: required("header.platform", header.platform)?.try_into()?,
        })
    }
}

/// Some of the farm's measurements, with the platform that they introduce if it is a new one.
pub(crate) struct Exported {
    pub(crate) platform: Option<PlatformNames>,
    pub(crate) measurements: Vec<Measurement>,
    /// Those of these measurements that were taken back.
    pub(crate) retractions: Vec<v1::Retraction>,
}

/// Every measurement in the order of arrival, a batch at a time.
pub(crate) struct Export(Streaming<v1::ExportMeasurementsResponse>);

impl Export {
    /// Needs the operator's connection. `platform` is a slug or hash; empty: all. Measurements that were retracted are left
    /// out unless they are asked for.
    pub(crate) async fn open(
        connection: &Connection,
        platform: &str,
        retracted: bool,
    ) -> anyhow::Result<Self> {
        let request = v1::ExportMeasurementsRequest {
            platform: platform.to_owned(),
            after_sequence: 0,
            retracted,
        };
        let response = connection.farm().export_measurements(unary(request)).await;
        Ok(Self(response.context("export measurements")?.into_inner()))
    }

    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Exported>> {
        let Some(message) = self.0.message().await.context("export measurements")? else {
            return Ok(None);
        };
        Ok(Some(Exported {
            platform: message.header.map(PlatformNames::try_from).transpose()?,
            measurements: each("measurements", message.measurements)?,
            retractions: message.retractions,
        }))
    }
}
