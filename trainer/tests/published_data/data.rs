//! Reading what others published.

use std::path::PathBuf;

use wattfarm_cost::Layer;
use wattfarm_cost::layer::Value;
use wattfarm_trainer::fit::Sample;

/// Columns of the layer CSV that are not a layer's fields.
const MEASURED: [&str; 5] = [
    "kind",
    "runtime_ms",
    "runtime_ms_std",
    "power_w",
    "energy_mj",
];

/// Runtimes of a set; `None`, said aloud, where it is not there.
pub(crate) fn read(name: &str) -> Option<Vec<Sample>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let path = std::env::var_os("WATTFARM_DATA")
        .map_or_else(beside, PathBuf::from)
        .join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED: no {}", path.display());
        return None;
    };
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let sample = |line: &str| {
        let cells: Vec<(&str, &str)> = header.iter().copied().zip(line.split(',')).collect();
        let cell = |name: &str| {
            cells
                .iter()
                .find(|(column, _)| *column == name)
                .expect("the column")
                .1
        };
        let fields = cells
            .iter()
            .filter(|(column, _)| !MEASURED.contains(column));
        let fields = fields.map(|&(column, cell)| (column, Value::from(cell)));
        let layer =
            Layer::from_fields(cell("kind").parse().expect("a kind"), fields).expect("a layer");
        Sample {
            layer,
            value: cell("runtime_ms").parse().expect("a runtime"),
            runtime_ms: None,
            agent: None,
        }
    };
    Some(lines.map(sample).collect())
}
