//! The layer CSV: one layer a row, its kind and fields first, then what was measured of it.

use std::io::Read;

use wattfarm_cost::layer::Value;
use wattfarm_cost::model::Target;
use wattfarm_cost::{Dtype, Kind, Layer, LayerError};

/// Rows of a file, at most.
const ROWS_MAX: usize = 2_000_000;

/// Columns that say something of a layer beyond its kind's own fields.
const OF_ANY_LAYER: [&str; 2] = ["dtype", "memory_format"];

/// One row of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The layer.
    pub layer: Layer,
    /// What was measured, in the target's unit: positive.
    pub value: f64,
    /// Its runtime in ms, where the file has one.
    pub runtime_ms: Option<f64>,
    /// The cell of the column that the caller asked for beside the target; empty without one.
    pub label: String,
}

/// The rows of a file that have a value for the target: at least one, all of one kind and dtype.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The layers' kind.
    pub kind: Kind,
    /// The layers' number type.
    pub dtype: Dtype,
    /// What `value` is.
    pub target: Target,
    /// Rows in the order of the file.
    pub rows: Vec<Row>,
}

/// Why a file is no table of layers. Lines count from 1, the header's.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not readable as CSV.
    #[error("read the file as CSV")]
    Csv(#[source] csv::Error),
    /// The header lacks a column.
    #[error("header has no column `{column}`")]
    NoColumn {
        /// The column.
        column: String,
    },
    /// The header has a column twice.
    #[error("header has column `{column}` twice")]
    ColumnTwice {
        /// The column.
        column: String,
    },
    /// A kind that Wattfarm doesn't know.
    #[error("line {line}, column kind: `{text}` is not a layer kind")]
    Kind {
        /// The line.
        line: u64,
        /// What stands there.
        text: String,
    },
    /// A row of another kind or dtype than the first.
    #[error(
        "line {line}: a `{found}` among rows of `{expected}`; a model is for one kind and dtype"
    )]
    Mixed {
        /// The line.
        line: u64,
        /// What stands there.
        found: String,
        /// What the first row has.
        expected: String,
    },
    /// Fields that make no layer.
    #[error("line {line}: {error}")]
    Layer {
        /// The line.
        line: u64,
        /// The field at fault, which is the column's name, and what is wrong with it.
        error: LayerError,
    },
    /// A value that is not a positive number.
    #[error("line {line}, column {column}: `{text}` is not a positive number")]
    Value {
        /// The line.
        line: u64,
        /// The target's column.
        column: &'static str,
        /// What stands there.
        text: String,
    },
    /// No row has a value.
    #[error("no row has a value in column `{column}`")]
    Empty {
        /// The target's column.
        column: &'static str,
    },
    /// More rows than [`ROWS_MAX`].
    #[error("more than {ROWS_MAX} rows")]
    TooLong,
}

impl Table {
    /// Reads a layer CSV. An empty cell in the target's column means not measured, and the row is left out. `label` names
    /// a column to keep beside the target.
    pub fn read(file: impl Read, target: Target, label: Option<&str>) -> Result<Self, TableError> {
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(file);
        let header = reader.headers().map_err(TableError::Csv)?.clone();
        let columns = Columns::find(&header, target, label)?;
        let (mut rows, mut first) = (Vec::new(), None);
        for record in reader.records() {
            let record = record.map_err(TableError::Csv)?;
            let line = record.position().map_or(0, csv::Position::line);
            let text = &record[columns.target];
            let layer = columns.layer(&header, &record, line)?;
            let (kind, dtype) = *first.get_or_insert((layer.kind(), layer.dtype()));
            if (layer.kind(), layer.dtype()) != (kind, dtype) {
                return Err(TableError::Mixed {
                    line,
                    found: format!("{} {}", layer.kind(), layer.dtype()),
                    expected: format!("{kind} {dtype}"),
                });
            }
            let Some(value) = number(text, line, target)? else {
                continue;
            };
            let runtime = columns.runtime.map_or("", |column| &record[column]);
            let runtime_ms = number(runtime, line, Target::RuntimeMs)?;
            if rows.len() == ROWS_MAX {
                return Err(TableError::TooLong);
            }
            let label = columns
                .label
                .map_or("", |column| &record[column])
                .to_owned();
            rows.push(Row {
                layer,
                value,
                runtime_ms,
                label,
            });
        }
        match first {
            Some((kind, dtype)) if !rows.is_empty() => Ok(Self {
                kind,
                dtype,
                target,
                rows,
            }),
            _ => Err(TableError::Empty {
                column: target.name(),
            }),
        }
    }

    /// The number of different layers.
    pub fn distinct(&self) -> usize {
        let hashes = self.rows.iter().map(|row| row.layer.hash());
        hashes.collect::<std::collections::BTreeSet<_>>().len()
    }
}

/// A measured value; `None` for an empty cell.
fn number(text: &str, line: u64, of: Target) -> Result<Option<f64>, TableError> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = text
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value > 0.0);
    value.map(Some).ok_or_else(|| TableError::Value {
        line,
        column: of.name(),
        text: clipped(text),
    })
}

/// Where in a row the columns are.
struct Columns {
    kind: usize,
    target: usize,
    runtime: Option<usize>,
    label: Option<usize>,
}

impl Columns {
    fn find(
        header: &csv::StringRecord,
        target: Target,
        label: Option<&str>,
    ) -> Result<Self, TableError> {
        let mut names: Vec<&str> = header.iter().collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TableError::ColumnTwice {
                column: clipped(twice[0]),
            });
        }
        let place = |column: &str| {
            let found = header.iter().position(|name| name == column);
            found.ok_or_else(|| TableError::NoColumn {
                column: clipped(column),
            })
        };
        Ok(Self {
            kind: place("kind")?,
            target: place(target.name())?,
            runtime: place(Target::RuntimeMs.name()).ok(),
            label: label.map(place).transpose()?,
        })
    }

    /// The layer of a row: whatever columns its kind has fields for.
    fn layer(
        &self,
        header: &csv::StringRecord,
        record: &csv::StringRecord,
        line: u64,
    ) -> Result<Layer, TableError> {
        let text = &record[self.kind];
        let kind: Kind = text.parse().map_err(|_| TableError::Kind {
            line,
            text: clipped(text),
        })?;
        let is_field =
            |name: &str| kind.field_names().contains(&name) || OF_ANY_LAYER.contains(&name);
        let cells = header.iter().zip(record);
        let fields = cells.filter(|(name, cell)| is_field(name) && !cell.is_empty());
        Layer::from_fields(kind, fields.map(|(name, cell)| (name, Value::from(cell))))
            .map_err(|error| TableError::Layer { line, error })
    }
}

/// The beginning of a text, for a message.
fn clipped(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Table, TableError> {
        Table::read(text.as_bytes(), Target::RuntimeMs, None)
    }

    const HEADER: &str = "kind,batch,in_features,out_features,bias,dtype,runtime_ms\n";

    #[test]
    fn columns_may_come_in_any_order_and_others_are_passed_over() {
        let text = "runtime_ms,what,out_features,kind,batch,in_features,power_w\n\
                    0.5,x,8,linear,2,4,\n,y,8,linear,2,5,7\n0.25,z,8,linear,2,4,7\n";
        let table = Table::read(text.as_bytes(), Target::RuntimeMs, Some("what")).expect("a table");
        assert_eq!(
            (table.kind, table.dtype, table.distinct()),
            (Kind::Linear, Dtype::F32, 1)
        );
        let rows: Vec<_> = table
            .rows
            .iter()
            .map(|row| (row.value, row.label.as_str()))
            .collect();
        assert_eq!(rows, [(0.5, "x"), (0.25, "z")]);
        let power = Table::read(text.as_bytes(), Target::PowerW, None).expect("a table");
        assert_eq!(power.rows.len(), 2);
    }

    #[test]
    fn faults_name_line_and_column() {
        let cases = [
            ("", "header has no column `kind`"),
            ("kind,batch\n", "header has no column `runtime_ms`"),
            (
                "kind,batch,batch,runtime_ms\n",
                "header has column `batch` twice",
            ),
            (HEADER, "no row has a value in column `runtime_ms`"),
            (
                "linear,1,2,3,0,f32,\n",
                "no row has a value in column `runtime_ms`",
            ),
            (
                "linear,1,2,3,0,f32,-1\n",
                "line 2, column runtime_ms: `-1` is not a positive number",
            ),
            (
                "linear,1,2,3,0,f32,NaN\n",
                "line 2, column runtime_ms: `NaN` is not a positive number",
            ),
            (
                "linear,1,2,3,0,f32,inf\n",
                "line 2, column runtime_ms: `inf` is not a positive number",
            ),
            (
                "linear,1,2,3,0,f32,0\n",
                "line 2, column runtime_ms: `0` is not a positive number",
            ),
            (
                "wool,1,2,3,0,f32,1\n",
                "line 2, column kind: `wool` is not a layer kind",
            ),
            (
                "linear,1,2,3,0,f32,1\nrelu,1,2,3,0,f32,1\n",
                "line 3: features: missing for relu",
            ),
            (
                "linear,1,2,3,0,f32,1\nlinear,1,2,3,0,f16,1\n",
                "line 3: a `linear f16` among rows of `linear f32`; a model is for one kind and dtype",
            ),
        ];
        for (text, message) in cases {
            let text = if text.starts_with("kind") || text.is_empty() {
                text.to_owned()
            } else {
                format!("{HEADER}{text}")
            };
            assert_eq!(read(&text).expect_err(message).to_string(), message);
        }
        let impossible = read(&format!("{HEADER}linear,1,0,3,0,f32,1\n")).expect_err("no input");
        assert!(
            impossible.to_string().starts_with("line 2: in_features: "),
            "{impossible}"
        );
        let ragged = read(&format!("{HEADER}linear,1\n")).expect_err("too few cells");
        assert!(matches!(ragged, TableError::Csv(_)), "{ragged}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Table::read(bytes.as_slice(), Target::RuntimeMs, None);
        }

        #[test]
        fn no_cells_panic(cells in prop::collection::vec("[a-z0-9.;eE+-]{0,12}", 7)) {
            let _ = read(&format!("{HEADER}{}\n", cells.join(",")));
            let _ = read(&format!("{HEADER}linear,{}\n", cells[1..].join(",")));
        }
    }
}
