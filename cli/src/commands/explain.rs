//! `wattfarm explain`: a model as a formula.

use std::collections::BTreeMap;

use serde::Serialize;
use wattfarm_cost::model::{Explanation, Target, Yardstick};
use wattfarm_cost::network::zoo;
use wattfarm_cost::{Dtype, Hash, Kind, Layer, Model};

use crate::args::ExplainArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Report};
use crate::predictor::Predictor;
use crate::render::table::{Column, table};
use crate::session::Session;

/// A model with what it is made of.
#[derive(Serialize)]
struct Explained {
    platform: String,
    model: Model,
    explanation: Explanation,
    /// Terms that the text shows.
    #[serde(skip)]
    shown: usize,
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: ExplainArgs,
) -> anyhow::Result<()> {
    let set = Predictor::open(session, &args.predictor)
        .await?
        .models()
        .await?;
    let found = set.model(args.kind, args.dtype, args.target);
    let model = found.cloned().ok_or_else(|| {
        let message = format!(
            "{} has no model for {} of {} {}",
            set.slug, args.target, args.dtype, args.kind
        );
        Failure::new(Exit::NotFound, message)
    })?;
    output.show(&Explained {
        platform: set.slug,
        explanation: model.explain(&layers(args.kind, args.dtype)?),
        model,
        shown: args.terms,
    })
}

/// The batches at which the built-in networks show what a model's parts do.
const BATCHES: [u64; 2] = [1, 8];

/// The different layers of a kind that the built-in networks have.
fn layers(kind: Kind, dtype: Dtype) -> anyhow::Result<Vec<Layer>> {
    let mut found: BTreeMap<Hash, Layer> = BTreeMap::new();
    for builtin in zoo::all() {
        for batch in BATCHES {
            let network = builtin.build(Some(batch), dtype)?;
            let own = network.layers().filter(|(_, layer)| layer.kind() == kind);
            found.extend(own.map(|(_, layer)| (layer.hash(), layer.clone())));
        }
    }
    Ok(found.into_values().collect())
}

impl Report for Explained {
    fn text(&self) -> String {
        let Self {
            model, explanation, ..
        } = self;
        let (key, validation) = (&model.key, &model.validation);
        let unit = match key.target {
            Target::RuntimeMs => "ms",
            Target::PowerW => "W",
            Target::EnergyMj => "mJ",
        };
        let form = match &explanation.time {
            None => "yardstick * exp(correction)",
            Some(_) => "yardstick * exp(correction), yardstick = constant + costs / time",
        };
        let mut lines = vec![
            format!(
                "{} of {} {} on {}, version {}",
                key.target, key.dtype, key.kind, self.platform, model.version
            ),
            format!(
                "from {} layers; error on layers held out: RMSPE {:.1} %, mean {:.1} %, median {:.1} %",
                model.provenance.distinct, validation.rmspe, validation.mape, validation.medape
            ),
        ];
        lines.extend(validation.holdout.map(|found| {
            format!(
                "of these, {} are fitted to by no version: RMSPE {:.1} %",
                found.layers, found.rmspe
            )
        }));
        lines.extend(validation.additivity.map(|found| {
            format!(
                "{} networks measured whole on the platform are {:.1} % from the sums of their layers ({:+.1} % on the mean), {:.1} % when \
                 each is corrected by the others",
                found.networks,
                100.0 * found.rms,
                100.0 * found.mean.exp_m1(),
                100.0 * found.corrected_rms()
            )
        }));
        lines.extend(model.provenance.devices.iter().map(|device| {
            format!(
                "of agent {}: {} layers, {:+.1} % to the mean device, which this model is of",
                device.agent,
                device.layers,
                device.percent()
            )
        }));
        lines.extend([
            String::new(),
            format!("{} = {form}", key.target),
            format!(
                "shares and changes are of the {} different layers of the kind in the built-in networks, batch 1 and 8",
                explanation.layers
            ),
            String::new(),
        ]);
        lines.push(costs(&format!("yardstick, {unit}"), &explanation.yardstick));
        if let Some(time) = &explanation.time {
            lines.extend([String::new(), costs("time, ms", time)]);
        }
        let shown = explanation.terms.iter().take(self.shown);
        let rows = shown.map(|effect| {
            [
                format!("{:+.1}", effect.percent.0),
                format!("{:+.1}", effect.percent.1),
                format!("{:+.4e}", effect.coefficient),
                effect.term.to_string(),
            ]
        });
        let columns = [
            Column::Right("from %"),
            Column::Right("to %"),
            Column::Right("coefficient"),
            Column::Left("correction"),
        ];
        lines.extend([
            String::new(),
            table(columns, rows),
            format!("and {:+.1} % for all", explanation.offset_percent),
        ]);
        let more = explanation.terms.len().saturating_sub(self.shown);
        if more > 0 {
            lines.push(format!("and {more} more terms"));
        }
        lines.join("\n")
    }
}

/// A yardstick's costs, the largest first.
fn costs(heading: &str, yardstick: &Yardstick) -> String {
    let row = |percent: f64, coefficient: f64, amount: String| {
        [
            format!("{percent:.1}"),
            format!("{coefficient:.4e}"),
            amount,
        ]
    };
    let constant = row(
        yardstick.constant_percent,
        yardstick.constant,
        "1".to_owned(),
    );
    let costs = yardstick.costs.iter();
    let costs = costs.map(|cost| row(cost.percent, cost.coefficient, cost.term.to_string()));
    let columns = [
        Column::Right("share %"),
        Column::Right("coefficient"),
        Column::Left("amount"),
    ];
    let rows = std::iter::once(constant).chain(costs);
    format!("{heading}\n{}", table(columns, rows))
}
