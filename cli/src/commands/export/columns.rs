//! The columns of the CSV files. Their names and order never change; new ones are added at the end.
//!
//! A layer's begin as the layer CSV does, which the trainer also reads from elsewhere: the kind, its own fields in
//! canonical order, the dtype, then figures. A missing figure is an empty cell.

use wattfarm_cost::{Measurement, Subject};

/// After what names the layer or network, the same for all.
const MEASURED: [&str; 25] = [
    "runtime_ms",
    "runtime_ms_low",
    "runtime_ms_high",
    "repetitions",
    "power_w",
    "energy_mj",
    "platform",
    "agent",
    "job",
    "sequence",
    "recipe",
    "measured_at_ms",
    "warmup",
    "idle_w",
    "power_sensor",
    "clock_mhz",
    "temperature_c",
    "throttle_reasons",
    "host",
    "driver",
    "agent_version",
    "seconds",
    "memory_format",
    "subject_hash",
    "disturbed",
];

/// The headings of the file that this subject's measurements go to.
pub(super) fn header(subject: &Subject) -> Vec<&'static str> {
    match subject {
        Subject::Layer(layer) => {
            let own = layer.kind().field_names().iter().copied();
            ["kind"]
                .into_iter()
                .chain(own)
                .chain(["dtype"])
                .chain(MEASURED)
                .collect()
        }
        Subject::Network(_) => ["network", "batch", "layers"]
            .into_iter()
            .chain(MEASURED)
            .collect(),
    }
}

/// A measurement's cells, one for each heading.
pub(super) fn row(measurement: &Measurement, slug: &str) -> Vec<String> {
    match &measurement.subject {
        Subject::Layer(layer) => {
            let own = layer
                .fields()
                .into_iter()
                .map(|(_, value)| value.to_string());
            let before = [layer.kind().to_string()]
                .into_iter()
                .chain(own)
                .chain([layer.dtype().to_string()]);
            before.chain(measured(measurement, slug)).collect()
        }
        Subject::Network(network) => {
            let layers = network.layers().count().to_string();
            let before = [
                network.name().to_owned(),
                network.batch().to_string(),
                layers,
            ];
            before
                .into_iter()
                .chain(measured(measurement, slug))
                .collect()
        }
    }
}

fn measured(measurement: &Measurement, slug: &str) -> [String; MEASURED.len()] {
    let reading = &measurement.reading;
    let (runtime, conditions) = (&reading.runtime, &reading.conditions);
    let power = reading.power.as_ref();
    let memory_format = match &measurement.subject {
        Subject::Layer(layer) => Some(layer.memory_format()),
        Subject::Network(_) => None,
    };
    [
        runtime.median_ms.to_string(),
        runtime.low_ms.to_string(),
        runtime.high_ms.to_string(),
        runtime.repetitions.to_string(),
        cell(power.map(|power| power.mean_w)),
        cell(reading.energy_mj()),
        slug.to_owned(),
        measurement.agent.to_string(),
        measurement.job.to_string(),
        measurement.sequence.to_string(),
        measurement.recipe.to_string(),
        conditions.measured_at_ms.to_string(),
        runtime.warmup.to_string(),
        cell(power.and_then(|power| power.idle_w)),
        cell(power.map(|power| &power.sensor)),
        cell(conditions.clock_mhz),
        cell(conditions.temperature_c),
        conditions.throttle_reasons.to_string(),
        conditions.host.clone(),
        cell(conditions.driver.as_ref()),
        conditions.agent_version.clone(),
        conditions.seconds.to_string(),
        cell(memory_format),
        measurement.subject.hash().to_string(),
        runtime.disturbed.to_string(),
    ]
}

fn cell(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use uuid::Uuid;
    use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};
    use wattfarm_cost::measurement::{Conditions, Reading, Recipe, Runtime};
    use wattfarm_cost::{Hash, Kind};

    use super::*;

    /// A measurement to write.
    pub(crate) fn measurement(subject: Subject) -> Measurement {
        Measurement {
            sequence: 7,
            job: JobId(Uuid::from_u128(1)),
            agent: AgentId(Uuid::from_u128(2)),
            lease: LeaseNumber(3),
            platform: Hash::of("platform"),
            recipe: Recipe::of(&subject),
            subject,
            reading: Reading {
                runtime: Runtime {
                    median_ms: 1.5,
                    low_ms: 1.25,
                    high_ms: 1.75,
                    repetitions: 3,
                    warmup: 2,
                    disturbed: 0,
                    samples_ms: vec![1.25, 1.5, 1.75],
                },
                power: None,
                conditions: Conditions {
                    seconds: 0.5,
                    ..Conditions::default()
                },
            },
            received_at_ms: 9,
        }
    }

    /// The headings, eight in a line.
    fn lines(kind: Kind) -> String {
        let header = header(&Subject::Layer(kind.example()));
        header
            .chunks(8)
            .map(|chunk| chunk.join(","))
            .collect::<Vec<_>>()
            .join(",\n")
    }

    #[test]
    fn columns_of_convolutions_are_golden() {
        insta::assert_snapshot!(lines(Kind::Conv2d), @r"
        kind,batch,in_channels,in_height,in_width,out_channels,kernel_h,kernel_w,
        stride_h,stride_w,pad_top,pad_bottom,pad_left,pad_right,dilation_h,dilation_w,
        groups,bias,activation,dtype,runtime_ms,runtime_ms_low,runtime_ms_high,repetitions,
        power_w,energy_mj,platform,agent,job,sequence,recipe,measured_at_ms,
        warmup,idle_w,power_sensor,clock_mhz,temperature_c,throttle_reasons,host,driver,
        agent_version,seconds,memory_format,subject_hash,disturbed
        ");
    }

    #[test]
    fn columns_of_linear_layers_are_golden() {
        insta::assert_snapshot!(lines(Kind::Linear), @r"
        kind,batch,in_features,out_features,bias,activation,dtype,runtime_ms,
        runtime_ms_low,runtime_ms_high,repetitions,power_w,energy_mj,platform,agent,job,
        sequence,recipe,measured_at_ms,warmup,idle_w,power_sensor,clock_mhz,temperature_c,
        throttle_reasons,host,driver,agent_version,seconds,memory_format,subject_hash,disturbed
        ");
    }

    #[test]
    fn columns_of_pools_are_golden() {
        insta::assert_snapshot!(lines(Kind::MaxPool2d), @r"
        kind,batch,channels,in_height,in_width,kernel_h,kernel_w,stride_h,
        stride_w,pad_top,pad_bottom,pad_left,pad_right,ceil_mode,dtype,runtime_ms,
        runtime_ms_low,runtime_ms_high,repetitions,power_w,energy_mj,platform,agent,job,
        sequence,recipe,measured_at_ms,warmup,idle_w,power_sensor,clock_mhz,temperature_c,
        throttle_reasons,host,driver,agent_version,seconds,memory_format,subject_hash,disturbed
        ");
    }

    /// What others published in the layer CSV begins with these columns. Pooling has gained `ceil_mode` since.
    #[test]
    fn columns_begin_as_the_published_ones() {
        let published = [
            (
                Kind::Conv2d,
                "kind,batch,in_channels,in_height,in_width,out_channels,kernel_h,kernel_w,stride_h,stride_w,pad_top,\
                 pad_bottom,pad_left,pad_right,dilation_h,dilation_w,groups,bias,activation,dtype,runtime_ms",
            ),
            (
                Kind::Linear,
                "kind,batch,in_features,out_features,bias,activation,dtype,runtime_ms",
            ),
            (
                Kind::MaxPool2d,
                "kind,batch,channels,in_height,in_width,kernel_h,kernel_w,stride_h,stride_w,pad_top,pad_bottom,\
                 pad_left,pad_right",
            ),
        ];
        for (kind, beginning) in published {
            let header = header(&Subject::Layer(kind.example())).join(",");
            assert!(header.starts_with(beginning), "{header}");
        }
    }

    #[test]
    fn every_row_has_a_cell_for_each_heading() {
        for kind in Kind::ALL {
            let measurement = measurement(Subject::Layer(kind.example()));
            assert_eq!(
                row(&measurement, "slug").len(),
                header(&measurement.subject).len()
            );
        }
        let network =
            wattfarm_cost::network::zoo::build("resnet18", None, wattfarm_cost::Dtype::F32);
        let measurement = measurement(Subject::Network(network.expect("built in")));
        let row = row(&measurement, "slug");
        assert_eq!(row.len(), header(&measurement.subject).len());
        assert_eq!(
            row[3..9],
            ["1.5", "1.25", "1.75", "3", "", "",].map(str::to_owned)
        );
    }
}
