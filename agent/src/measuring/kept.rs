//! The canary's history on disk, beside the agent's identity.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wattfarm_cost::Hash;

use crate::canary::History;

/// The file of one canary.
pub(super) struct Kept {
    path: PathBuf,
    layer: Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Another layer's history says nothing.
    layer: Hash,
    /// Nor does that of another libtorch.
    libtorch: String,
    history: History,
}

impl Kept {
    pub(super) fn in_folder(state: &Path, layer: Hash) -> Self {
        Self {
            path: state.join("canary.json"),
            layer,
        }
    }

    /// What is known of the device; nothing where there is no file, or one of another canary.
    pub(super) fn read(&self) -> History {
        match self.stored() {
            Ok(Some(stored)) if stored.layer == self.layer && stored.libtorch == libtorch() => {
                stored.history
            }
            Ok(_) => History::default(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the canary's history cannot be read: it begins anew");
                History::default()
            }
        }
    }

    fn stored(&self) -> io::Result<Option<Stored>> {
        match fs::read(&self.path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Written beside and renamed, so that a crash leaves the old one or the new one.
    pub(super) fn write(&self, history: &History) {
        let stored = Stored {
            layer: self.layer,
            libtorch: libtorch(),
            history: history.clone(),
        };
        let beside = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            fs::write(&beside, serde_json::to_vec(&stored)?)?;
            fs::rename(&beside, &self.path)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %self.path.display(), %error, "the canary's history could not be kept");
        }
    }
}

fn libtorch() -> String {
    crate::executor::libtorch_version()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wattfarm_cost::Kind;

    use super::*;
    use crate::canary::Canary;

    #[test]
    fn a_history_is_that_of_its_own_layer() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut canary = Canary::new(History::default());
        canary.judge(1.5, Duration::ZERO);
        let kept = Kept::in_folder(folder.path(), Kind::Relu.example().hash());
        kept.write(canary.history());
        assert_eq!(&kept.read(), canary.history());
        let another = Kept::in_folder(folder.path(), Kind::Gelu.example().hash());
        assert_eq!(another.read(), History::default());
        fs::write(folder.path().join("canary.json"), "{").expect("written");
        assert_eq!(kept.read(), History::default());
    }
}
