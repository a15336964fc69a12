//! Folders of models that are found by their platform's name, each file with its checksum.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;
use wattfarm_cost::{Hash, ModelSet};

use crate::exit::{Exit, Failure};
use crate::files;

/// The file of a folder that has its files' checksums: a blake3 and a name on each line.
const CHECKSUMS: &str = "CHECKSUMS";

/// Where models are looked for: the folder that was named, that of the current folder, those that an installation has, and
/// that of a checkout which this command was built in.
pub(crate) fn folders(named: Option<&Path>) -> Vec<PathBuf> {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|folder| {
        [
            "platforms",
            "../share/wattfarm/platforms",
            "../../platforms",
        ]
        .map(|at| folder.join(at))
    });
    let named = named.map(Path::to_owned).into_iter();
    named
        .chain([PathBuf::from("platforms")])
        .chain(beside.into_iter().flatten())
        .collect()
}

/// The first of the folders that has models of a platform (its slug).
pub(crate) fn folder_of<'a>(slug: &str, folders: &'a [PathBuf]) -> Option<&'a Path> {
    let file = format!("{slug}.json");
    let has = |folder: &&PathBuf| is_slug(slug) && folder.join(&file).is_file();
    folders.iter().find(has).map(PathBuf::as_path)
}

/// The models of a platform (its slug) from the first of the folders that has them. Refused are files that are not as
/// their checksum has them, models of another platform, and those that do not say what they rest on.
pub(crate) fn find(slug: &str, folders: &[PathBuf]) -> anyhow::Result<ModelSet> {
    let refused = |message: String| Failure::new(Exit::Usage, message);
    let file = format!("{slug}.json");
    let Some(folder) = folder_of(slug, folders) else {
        let there: BTreeSet<String> = folders.iter().flat_map(|folder| slugs(folder)).collect();
        let there = match there.is_empty() {
            true => "nothing else either".to_owned(),
            false => there.into_iter().collect::<Vec<_>>().join(", "),
        };
        let message = format!(
            "there is no file `{slug}`, and no platform of that name on the shelf: there is {there}"
        );
        return Err(Failure::new(Exit::NotFound, message).into());
    };
    let path = folder.join(&file);
    let text = fs::read_to_string(&path)
        .with_context(|| refused(format!("read models from {}", path.display())))?;
    let known = checksums(folder)?;
    match known.get(&file) {
        Some(known) if *known == Hash::of(&text).to_string() => (),
        Some(known) => {
            let message = format!(
                "{} is not the file that {CHECKSUMS} beside it names: its blake3 is {}, not {known}",
                path.display(),
                Hash::of(&text)
            );
            return Err(refused(message).into());
        }
        None => {
            let message = format!(
                "{} has no checksum in {CHECKSUMS} beside it",
                path.display()
            );
            return Err(refused(message).into());
        }
    }
    let unusable = || refused(format!("read models from {}", path.display()));
    let models: ModelSet = serde_json::from_str(&text).with_context(unusable)?;
    models.check().with_context(unusable)?;
    if models.slug != slug {
        let message = format!("{} has the models of {}", path.display(), models.slug);
        return Err(refused(message).into());
    }
    let of_nothing = models.models.iter().find(|model| {
        let provenance = &model.provenance;
        provenance.distinct == 0
            || provenance.samples < provenance.distinct
            || provenance.trainer_version.is_empty()
    });
    match of_nothing {
        Some(model) => {
            let key = &model.key;
            let message = format!(
                "{}: the model of {} for {} does not say what it was fitted to",
                path.display(),
                key.target,
                key.kind
            );
            Err(refused(message).into())
        }
        None => Ok(models),
    }
}

/// Puts a platform's models into a folder, under its slug, with their checksum. What was there under the name is replaced.
pub(crate) fn put(models: &ModelSet, folder: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let file = format!("{}.json", models.slug);
    let mut text = serde_json::to_string_pretty(models)?;
    text.push('\n');
    let path = folder.join(&file);
    files::write(&path, text.as_bytes())?;
    let mut known = checksums(folder)?;
    known.insert(file, Hash::of(&text).to_string());
    let lines: Vec<String> = known
        .into_iter()
        .map(|(file, hash)| format!("{hash}  {file}\n"))
        .collect();
    files::write(&folder.join(CHECKSUMS), lines.concat().as_bytes())?;
    Ok(path)
}

/// Whether a text is a platform's name, and not the way to some file.
fn is_slug(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    !text.is_empty() && !text.starts_with('.') && text.chars().all(is_part)
}

/// The checksums of a folder's files by name; none, if it has no list.
fn checksums(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let path = folder.join(CHECKSUMS);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let line = |line: &str| {
        let (hash, file) = line.split_once("  ")?;
        Some((file.to_owned(), hash.to_owned()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// The platforms of a folder.
fn slugs(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let slug = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".json").map(str::to_owned)
    };
    entries.filter_map(slug).collect()
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Platform;
    use wattfarm_cost::platform::Device;

    use super::*;

    fn models() -> ModelSet {
        let device = Device::Cpu {
            model: "c".to_owned(),
            threads: 1,
            instruction_set: "AVX2".to_owned(),
        };
        let platform = Platform {
            device,
            libtorch: "2.11.0".to_owned(),
        };
        ModelSet::new(platform.slug(), platform, Vec::new())
    }

    fn told(slug: &str, folder: &Path) -> String {
        find(slug, &[folder.to_owned()])
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn what_is_put_is_found_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let (empty, full) = (folder.path().join("empty"), folder.path().join("full"));
        let models = models();
        let path = put(&models, &full).expect("written");
        assert_eq!(path, full.join("c-avx2-1t-torch2.11.0.json"));
        put(&models, &full).expect("written again");
        let found = find("c-avx2-1t-torch2.11.0", &[empty, full.clone()]).expect("there");
        assert_eq!(found, models);
        assert_eq!(
            told("d", &full),
            "there is no file `d`, and no platform of that name on the shelf: there is c-avx2-1t-torch2.11.0"
        );
        assert!(told("../full/c-avx2-1t-torch2.11.0", &full).starts_with("there is no file"));
    }

    #[test]
    fn what_was_altered_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let models = models();
        let path = put(&models, folder.path()).expect("written");
        let text = fs::read_to_string(&path).expect("there");
        fs::write(&path, text.replace("AVX2", "AVX1")).expect("written");
        let altered = told(&models.slug, folder.path());
        assert!(
            altered.contains("is not the file that CHECKSUMS beside it names"),
            "{altered}"
        );
        fs::remove_file(folder.path().join(CHECKSUMS)).expect("removed");
        let unknown = told(&models.slug, folder.path());
        assert!(
            unknown.ends_with("has no checksum in CHECKSUMS beside it"),
            "{unknown}"
        );
        let other = folder.path().join("other.json");
        fs::write(&other, &text).expect("written");
        let line = format!("{}  other.json\n", Hash::of(&text));
        fs::write(folder.path().join(CHECKSUMS), line).expect("written");
        let another = told("other", folder.path());
        assert!(
            another.ends_with("has the models of c-avx2-1t-torch2.11.0"),
            "{another}"
        );
    }
}
