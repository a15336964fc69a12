//! `wattfarm export`: every measurement in files that other programs read.
//!
//! One file for each layer kind, `networks` for whole networks, `platforms.ndjson`, which says what each platform is, and on
//! request `retractions.ndjson`, which says why measurements were taken back.

mod columns;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_cost::{Hash, Measurement, Platform, Subject};
use wattfarm_proto::v1;

use crate::args::ExportArgs;
use crate::farm::{Export, PlatformNames};
use crate::files::NewFile;
use crate::output::note;
use crate::render::number::short;
use crate::session::Session;

/// How a measurement is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// A row of figures. A kind's columns are in [`columns`].
    Csv,
    /// A line of JSON with everything, raw samples included.
    Ndjson,
}

pub(super) async fn run(session: &Session, args: ExportArgs) -> anyhow::Result<()> {
    let encoding = if args.encoding == "csv" {
        Encoding::Csv
    } else {
        Encoding::Ndjson
    };
    let connection = session.operator().await?;
    let platform = args.platform.as_deref().unwrap_or_default();
    let mut export = Export::open(&connection, platform, args.retracted).await?;
    fs::create_dir_all(&args.output)
        .with_context(|| format!("create {}", args.output.display()))?;
    let mut folder = Folder::new(&args.output, encoding);
    while let Some(batch) = export.next().await? {
        if let Some(platform) = batch.platform {
            folder.introduce(platform)?;
        }
        for measurement in &batch.measurements {
            folder.add(measurement)?;
        }
        for retraction in batch.retractions {
            folder.explain(retraction)?;
        }
    }
    let (measurements, files) = folder.finish()?;
    note(format!(
        "{measurements} measurements in {files} files in {}",
        args.output.display()
    ));
    Ok(())
}

/// The files in the making.
struct Folder {
    path: PathBuf,
    encoding: Encoding,
    slugs: BTreeMap<Hash, String>,
    platforms: Option<NewFile>,
    retractions: Option<NewFile>,
    files: BTreeMap<&'static str, Table>,
    measurements: u64,
}

/// A file of measurements that have the same columns.
enum Table {
    Csv(Box<csv::Writer<NewFile>>),
    Ndjson(NewFile),
}

/// A line of `platforms.ndjson`.
#[derive(Serialize)]
struct PlatformLine<'a> {
    slug: &'a str,
    hash: Hash,
    platform: &'a Platform,
}

/// A line of `retractions.ndjson`.
#[derive(Serialize)]
struct RetractionLine {
    sequence: u64,
    because: String,
    retracted_at_ms: u64,
}

impl Folder {
    fn new(path: &Path, encoding: Encoding) -> Self {
        Self {
            path: path.to_owned(),
            encoding,
            slugs: BTreeMap::new(),
            platforms: None,
            retractions: None,
            files: BTreeMap::new(),
            measurements: 0,
        }
    }

    fn introduce(&mut self, names: PlatformNames) -> anyhow::Result<()> {
        let file = match &mut self.platforms {
            Some(file) => file,
            none => none.insert(NewFile::create(&self.path.join("platforms.ndjson"))?),
        };
        write_line(
            file,
            &PlatformLine {
                slug: &names.slug,
                hash: names.hash,
                platform: &names.platform,
            },
        )?;
        self.slugs.insert(names.hash, names.slug);
        Ok(())
    }

    fn explain(&mut self, retraction: v1::Retraction) -> anyhow::Result<()> {
        let file = match &mut self.retractions {
            Some(file) => file,
            none => none.insert(NewFile::create(&self.path.join("retractions.ndjson"))?),
        };
        let line = RetractionLine {
            sequence: retraction.sequence,
            because: retraction.because,
            retracted_at_ms: retraction.retracted_at_ms,
        };
        write_line(file, &line)
    }

    fn add(&mut self, measurement: &Measurement) -> anyhow::Result<()> {
        let name = match &measurement.subject {
            Subject::Layer(layer) => layer.kind().name(),
            Subject::Network(_) => "networks",
        };
        if !self.files.contains_key(name) {
            let table = Table::create(&self.path, name, self.encoding, &measurement.subject)?;
            self.files.insert(name, table);
        }
        // A platform that was not introduced is the coordinator's slip; its hash still tells which it is.
        let hash = measurement.platform.to_string();
        let slug = self
            .slugs
            .get(&measurement.platform)
            .map_or_else(|| short(&hash), String::as_str);
        self.measurements += 1;
        self.files
            .get_mut(name)
            .expect("made above")
            .add(measurement, slug)
    }

    /// Puts every file in its place; returns how many measurements, and how many files.
    fn finish(self) -> anyhow::Result<(u64, usize)> {
        let lists = [self.platforms, self.retractions];
        let files = self.files.len() + lists.iter().flatten().count();
        for table in self.files.into_values() {
            table.finish()?;
        }
        for list in lists.into_iter().flatten() {
            list.finish()?;
        }
        Ok((self.measurements, files))
    }
}

impl Table {
    fn create(
        folder: &Path,
        name: &str,
        encoding: Encoding,
        subject: &Subject,
    ) -> anyhow::Result<Self> {
        match encoding {
            Encoding::Ndjson => Ok(Self::Ndjson(NewFile::create(
                &folder.join(format!("{name}.ndjson")),
            )?)),
            Encoding::Csv => {
                let mut writer =
                    csv::Writer::from_writer(NewFile::create(&folder.join(format!("{name}.csv")))?);
                writer.write_record(columns::header(subject))?;
                Ok(Self::Csv(Box::new(writer)))
            }
        }
    }

    fn add(&mut self, measurement: &Measurement, slug: &str) -> anyhow::Result<()> {
        match self {
            Self::Csv(writer) => Ok(writer.write_record(columns::row(measurement, slug))?),
            Self::Ndjson(file) => write_line(file, measurement),
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Csv(writer) => writer
                .into_inner()
                .map_err(csv::IntoInnerError::into_error)?
                .finish(),
            Self::Ndjson(file) => file.finish(),
        }
    }
}

fn write_line(file: &mut NewFile, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *file, value)?;
    Ok(file.write_all(b"\n")?)
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;
    use wattfarm_cost::network::zoo;
    use wattfarm_cost::platform::Device;

    use super::columns::tests::measurement;
    use super::*;

    fn names() -> PlatformNames {
        let cpu = Device::Cpu {
            model: "test".to_owned(),
            threads: 1,
            instruction_set: "AVX2".to_owned(),
        };
        let platform = Platform {
            device: cpu,
            libtorch: "2.11.0".to_owned(),
        };
        PlatformNames {
            slug: "test-cpu".to_owned(),
            hash: platform.hash(),
            platform,
        }
    }

    /// Writes a measured layer and a measured network; returns the files by name.
    fn export(encoding: Encoding) -> BTreeMap<String, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = Folder::new(folder.path(), encoding);
        files.introduce(names()).expect("written");
        let network = zoo::build("resnet18", None, wattfarm_cost::Dtype::F32).expect("built in");
        for subject in [
            Subject::Layer(Kind::Linear.example()),
            Subject::Network(network),
        ] {
            let measurement = Measurement {
                platform: names().hash,
                ..measurement(subject)
            };
            files.add(&measurement).expect("written");
        }
        assert_eq!(files.finish().expect("in place"), (2, 3));
        let entries = fs::read_dir(folder.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").path());
        let file = |path: PathBuf| {
            let name = path
                .file_name()
                .expect("has a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read_to_string(path).expect("text"))
        };
        entries.map(file).collect()
    }

    #[test]
    fn csv_has_a_file_a_kind() {
        let files = export(Encoding::Csv);
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["linear.csv", "networks.csv", "platforms.ndjson"]
        );
        let row = files["linear.csv"].lines().nth(1).expect("a row");
        assert!(
            row.starts_with("linear,1,64,32,0,none,f32,1.5,1.25,1.75,3,,,test-cpu,"),
            "{row}"
        );
    }

    #[test]
    fn ndjson_holds_whole_measurements() {
        let files = export(Encoding::Ndjson);
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["linear.ndjson", "networks.ndjson", "platforms.ndjson"]
        );
        let found: Measurement =
            serde_json::from_str(&files["linear.ndjson"]).expect("one measurement");
        assert_eq!(found.reading.runtime.samples_ms, [1.25, 1.5, 1.75]);
    }
}
