//! `wattfarm networks`: what can be predicted, and what it is made of.

use serde::Serialize;
use wattfarm_cost::layer::Value;
use wattfarm_cost::network::zoo;
use wattfarm_cost::{Dtype, Kind, Layer, Network};

use crate::args::NetworksArgs;
use crate::output::{Output, Report};
use crate::render::number::{giga, mega};
use crate::render::table::{Column, table};

/// A built-in network at its own batch.
#[derive(Serialize)]
struct Summary {
    name: &'static str,
    batch: u64,
    layers: usize,
    flops: u64,
    parameters: u64,
    description: &'static str,
}

impl Summary {
    fn new(builtin: &zoo::Builtin) -> anyhow::Result<Self> {
        let network = builtin.build(None, Dtype::F32)?;
        let work = || network.layers().map(|(_, layer)| layer.work());
        Ok(Self {
            name: builtin.name,
            batch: network.batch(),
            layers: network.layers().count(),
            flops: work().map(|work| work.flops).sum(),
            parameters: work().map(|work| work.parameters).sum(),
            description: builtin.description,
        })
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Networks(Vec<Summary>);

impl Report for Networks {
    fn text(&self) -> String {
        let columns = [
            Column::Left("network"),
            Column::Right("batch"),
            Column::Right("layers"),
            Column::Right("GFLOPs"),
            Column::Right("M parameters"),
            Column::Left("what it is"),
        ];
        let row = |summary: &Summary| {
            [
                summary.name.to_owned(),
                summary.batch.to_string(),
                summary.layers.to_string(),
                giga(summary.flops),
                mega(summary.parameters),
                summary.description.to_owned(),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

/// One layer of a network.
#[derive(Serialize)]
struct NamedLayer {
    name: String,
    hash: String,
    layer: Layer,
    flops: u64,
    bytes: u64,
    parameters: u64,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Layers(Vec<NamedLayer>);

impl Layers {
    fn of(network: &Network) -> Self {
        let named = |(name, layer): (&str, &Layer)| {
            let work = layer.work();
            NamedLayer {
                name: name.to_owned(),
                hash: layer.hash().to_string(),
                layer: layer.clone(),
                flops: work.flops,
                bytes: work.bytes(),
                parameters: work.parameters,
            }
        };
        Self(network.layers().map(named).collect())
    }
}

impl Report for Layers {
    fn text(&self) -> String {
        let columns = [
            Column::Left("name"),
            Column::Right("GFLOPs"),
            Column::Right("MB"),
            Column::Right("M parameters"),
            Column::Left("layer"),
        ];
        let row = |named: &NamedLayer| {
            [
                named.name.clone(),
                giga(named.flops),
                mega(named.bytes),
                mega(named.parameters),
                named.layer.to_string(),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

/// A layer kind with its fields in canonical order.
#[derive(Serialize)]
struct KindFields {
    kind: Kind,
    fields: Vec<FieldDefault>,
}

/// A field; without a default it must be given.
#[derive(Serialize)]
struct FieldDefault {
    name: &'static str,
    default: Option<Value>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Kinds(Vec<KindFields>);

impl Kinds {
    fn all() -> Self {
        let field = |kind: Kind, name| FieldDefault {
            name,
            default: kind.default_of(name),
        };
        let fields = |kind: Kind| {
            kind.field_names()
                .iter()
                .map(|name| field(kind, name))
                .collect()
        };
        Self(
            Kind::ALL
                .into_iter()
                .map(|kind| KindFields {
                    kind,
                    fields: fields(kind),
                })
                .collect(),
        )
    }
}

impl Report for Kinds {
    fn text(&self) -> String {
        let field = |field: &FieldDefault| match &field.default {
            Some(default) => format!("{}={default}", field.name),
            None => field.name.to_owned(),
        };
        let row = |of: &KindFields| {
            [
                of.kind.to_string(),
                of.fields.iter().map(field).collect::<Vec<_>>().join(", "),
            ]
        };
        table(
            [
                Column::Left("kind"),
                Column::Left("fields, with their defaults"),
            ],
            self.0.iter().map(row),
        )
    }
}

pub(super) fn run(output: Output, args: &NetworksArgs) -> anyhow::Result<()> {
    match &args.network {
        _ if args.kinds => output.show(&Kinds::all()),
        Some(name) => output.show(&Layers::of(&name.load(Dtype::F32)?)),
        None => output.show(&Networks(
            zoo::all()
                .iter()
                .map(Summary::new)
                .collect::<Result<_, _>>()?,
        )),
    }
}
