//! Readings and measurements.

use wattfarm_cost::measurement::{
    Board, Conditions, Measurement, Power, PowerTrial, Reading, Runtime,
};

use super::{parse, required, sub};
use crate::error::FieldError;
use crate::v1;

impl TryFrom<v1::Reading> for Reading {
    type Error = FieldError;

    fn try_from(message: v1::Reading) -> Result<Self, FieldError> {
        let runtime = required("runtime", message.runtime)?;
        let conditions = required("conditions", message.conditions)?;
        let reading = Self {
            runtime: Runtime {
                median_ms: runtime.median_ms,
                low_ms: runtime.low_ms,
                high_ms: runtime.high_ms,
                repetitions: runtime.repetitions,
                warmup: runtime.warmup,
                disturbed: runtime.disturbed,
                samples_ms: runtime.samples_ms,
            },
            power: message.power.map(|power| Power {
                mean_w: power.mean_w,
                idle_w: power.idle_w,
                sensor: power.sensor,
                window_s: power.window_s,
            }),
            conditions: Conditions {
                agent_version: conditions.agent_version,
                host: conditions.host,
                driver: conditions.driver,
                clock_mhz: conditions.clock_mhz,
                temperature_c: conditions.temperature_c,
                throttle_reasons: conditions.throttle_reasons,
                measured_at_ms: conditions.measured_at_ms,
                seconds: conditions.seconds,
                board: conditions.board.map(Board::from),
            },
        };
        reading
            .check()
            .map_err(|error| FieldError::new(error.field, error.reason))?;
        Ok(reading)
    }
}

impl From<&Reading> for v1::Reading {
    fn from(reading: &Reading) -> Self {
        let Reading {
            runtime,
            power,
            conditions,
        } = reading.clone();
        Self {
            runtime: Some(v1::reading::Runtime {
                median_ms: runtime.median_ms,
                low_ms: runtime.low_ms,
                high_ms: runtime.high_ms,
                repetitions: runtime.repetitions,
                warmup: runtime.warmup,
                disturbed: runtime.disturbed,
                samples_ms: runtime.samples_ms,
            }),
            power: power.map(|power| v1::reading::Power {
                mean_w: power.mean_w,
                idle_w: power.idle_w,
                sensor: power.sensor,
                window_s: power.window_s,
            }),
            conditions: Some(v1::reading::Conditions {
                agent_version: conditions.agent_version,
                host: conditions.host,
                driver: conditions.driver,
                clock_mhz: conditions.clock_mhz,
                temperature_c: conditions.temperature_c,
                throttle_reasons: conditions.throttle_reasons,
                measured_at_ms: conditions.measured_at_ms,
                seconds: conditions.seconds,
                board: conditions.board.map(v1::reading::Board::from),
            }),
        }
    }
}

impl From<v1::reading::Board> for Board {
    fn from(message: v1::reading::Board) -> Self {
        Self {
            uuid: message.uuid,
            launch_ms: message.launch_ms,
            trial: message.trial.map(|trial| PowerTrial {
                procedure: trial.procedure,
                low_w: trial.low_w,
                high_w: trial.high_w,
                gain: trial.gain,
                windows: trial.windows,
                ticks: trial.ticks,
                phases: trial.phases,
                call_ms: trial.call_ms,
                clock_min_mhz: trial.clock_min_mhz,
                locked_mhz: trial.locked_mhz,
                temperature_before_c: trial.temperature_before_c,
                samples_s: trial.samples_s,
                samples_w: trial.samples_w,
            }),
            power_void: message.power_void,
        }
    }
}

impl From<Board> for v1::reading::Board {
    fn from(board: Board) -> Self {
        Self {
            uuid: board.uuid,
            launch_ms: board.launch_ms,
            trial: board.trial.map(|trial| v1::reading::PowerTrial {
                procedure: trial.procedure,
                low_w: trial.low_w,
                high_w: trial.high_w,
                gain: trial.gain,
                windows: trial.windows,
                ticks: trial.ticks,
                phases: trial.phases,
                call_ms: trial.call_ms,
                clock_min_mhz: trial.clock_min_mhz,
                locked_mhz: trial.locked_mhz,
                temperature_before_c: trial.temperature_before_c,
                samples_s: trial.samples_s,
                samples_w: trial.samples_w,
            }),
            power_void: board.power_void,
        }
    }
}

impl TryFrom<v1::Measurement> for Measurement {
    type Error = FieldError;

    fn try_from(message: v1::Measurement) -> Result<Self, FieldError> {
        Ok(Self {
            sequence: message.sequence,
            job: parse("job_id", &message.job_id)?,
            agent: parse("agent_id", &message.agent_id)?,
            lease: wattfarm_cost::id::LeaseNumber(message.lease),
            platform: parse("platform", &message.platform)?,
            subject: sub("subject", message.subject)?,
            recipe: parse("recipe", &message.recipe)?,
            reading: sub("reading", message.reading)?,
            received_at_ms: message.received_at_ms,
        })
    }
}

impl From<&Measurement> for v1::Measurement {
    fn from(measurement: &Measurement) -> Self {
        Self {
            sequence: measurement.sequence,
            job_id: measurement.job.to_string(),
            agent_id: measurement.agent.to_string(),
            lease: measurement.lease.0,
            platform: measurement.platform.to_string(),
            subject: Some((&measurement.subject).into()),
            recipe: measurement.recipe.to_string(),
            reading: Some((&measurement.reading).into()),
            received_at_ms: measurement.received_at_ms,
        }
    }
}
