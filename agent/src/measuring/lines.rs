//! Lines of JSON between the agent and its measuring process.

use std::fs::File;
use std::io::{self, BufRead, Write as _};
use std::os::fd::FromRawFd as _;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Stdout, for words alone: whatever a library prints goes to stderr.
#[derive(Clone)]
pub(super) struct Speaker(Arc<Mutex<File>>);

impl Speaker {
    /// To be called once, before anything has been printed.
    pub(super) fn take_stdout() -> io::Result<Self> {
        // SAFETY: `dup` makes a descriptor that nobody else has; `dup2` puts stderr in stdout's place.
        #[expect(unsafe_code, reason = "the standard library does not redirect stdout")]
        let file = unsafe {
            let own = libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3);
            if own < 0 || libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(own)
        };
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Says something; the reader has it when this returns.
    pub(super) fn say(&self, word: &impl Serialize) -> io::Result<()> {
        let line = encode(word)?;
        let mut file = self
            .0
            .lock()
            .map_err(|_| io::Error::other("a speaker panicked"))?;
        file.write_all(&line)
    }
}

/// A line.
pub(crate) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Hands every line to `take`, until there are no more or it wants none. A line that cannot be understood ends it too: both
/// ends are one program.
pub(super) fn hear<T: DeserializeOwned>(lines: impl BufRead, mut take: impl FnMut(T) -> bool) {
    for line in lines.lines() {
        let heard = line.and_then(|line| Ok(serde_json::from_str(&line)?));
        let goes_on = match heard {
            Ok(value) => take(value),
            Err(error) => {
                tracing::error!(%error, "an order could not be understood");
                false
            }
        };
        if !goes_on {
            return;
        }
    }
}
