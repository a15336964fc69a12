//! `wattfarm retract`: measurements that are not to be believed.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_proto::connect::unary;
use wattfarm_proto::v1;

use crate::args::RetractArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Report};
use crate::session::Session;

/// What one call takes.
const CALL_MAX: usize = 1000;

/// What one command takes: whoever means more has to say so again.
const MEASUREMENTS_MAX: usize = 100_000;

#[derive(Serialize)]
struct Retracted {
    retracted: u32,
    known: u32,
}

impl Report for Retracted {
    fn text(&self) -> String {
        let known = match self.known {
            0 => String::new(),
            known => format!("; {known} had been retracted before"),
        };
        format!("{} retracted{known}", self.retracted)
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: RetractArgs,
) -> anyhow::Result<()> {
    let named: u64 = (args.sequences.iter())
        .map(|sequences| sequences.count())
        .fold(0, u64::saturating_add);
    if named > MEASUREMENTS_MAX as u64 {
        let message =
            format!("these are {named} measurements: at most {MEASUREMENTS_MAX} at a time");
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let sequences: Vec<u64> = args.sequences.iter().flat_map(|some| some.iter()).collect();
    let mut farm = session.operator().await?.farm();
    let mut sum = Retracted {
        retracted: 0,
        known: 0,
    };
    for part in sequences.chunks(CALL_MAX) {
        let request = v1::RetractMeasurementsRequest {
            sequences: part.to_vec(),
            because: args.because.clone(),
        };
        let response = farm.retract_measurements(unary(request)).await;
        let response = response.context("retract measurements")?.into_inner();
        sum.retracted += response.retracted;
        sum.known += response.known;
    }
    output.show(&sum)
}
