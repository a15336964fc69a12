//! The demo's processes: started beside each other, watched, and ended before the demo ends.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::cores::Cores;
use super::folder::Folder;
use crate::output::note;

/// How long a process may take to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether all are alive.
const LOOK: Duration = Duration::from_millis(200);
/// Lines of a log that tell why a process ended.
const TAIL_LINES: usize = 15;

/// A program of the farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Coordinator,
    Agent,
    Trainer,
}

impl Program {
    const ALL: [Self; 3] = [Self::Coordinator, Self::Agent, Self::Trainer];

    /// The name of its executable.
    fn executable(self) -> &'static str {
        match self {
            Self::Coordinator => "wattfarm-coordinator",
            Self::Agent => "wattfarm-agent",
            Self::Trainer => "wattfarm-trainer",
        }
    }

    fn log(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator.log",
            Self::Agent => "agent.log",
            Self::Trainer => "trainer.log",
        }
    }
}

/// The processes in the order of their start. Dropped without [`Self::stop`], as in a panic, they are killed.
pub(super) struct Processes {
    executables: PathBuf,
    /// Where their logs are.
    folder: Folder,
    cores: Option<Cores>,
    running: Vec<Running>,
}

struct Running {
    program: Program,
    child: Child,
    log: PathBuf,
}

impl Processes {
    /// Finds the programs beside this one; what they say goes into `folder`.
    pub(super) fn find(folder: Folder, cores: Option<Cores>) -> anyhow::Result<Self> {
        let own = env::current_exe().context("find this program's own folder")?;
        let executables = own
            .parent()
            .context("find this program's own folder")?
            .to_owned();
        for program in Program::ALL {
            let path = executables.join(program.executable());
            if !path.is_file() {
                bail!("{} is not there: `make demo` builds it", path.display());
            }
        }
        Ok(Self {
            executables,
            folder,
            cores,
            running: Vec::new(),
        })
    }

    /// Starts a program, with what it says in a file of its own.
    pub(super) fn start<A: Into<OsString>>(
        &mut self,
        program: Program,
        arguments: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<()> {
        let starting = || format!("start {}", program.executable());
        let log = self.folder.path().join(program.log());
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(self.executables.join(program.executable()));
        command.args(arguments.into_iter().map(Into::into));
        command
            .stdin(self.folder.share()?)
            .stdout(file.try_clone()?)
            .stderr(file)
            // A file wants no colours.
            .env("NO_COLOR", "1");
        // A group of its own: the terminal's Ctrl-C reaches the demo alone, which then ends the others in order.
        command.process_group(0).kill_on_drop(true);
        // A demo that is killed can end nobody: each process then ends by itself, as if it had been told to.
        let demo = getpid();
        let follow = move || {
            set_parent_process_death_signal(Some(Signal::TERM))?;
            // It may have been killed before that call.
            match getppid() == Some(demo) {
                true => Ok(()),
                false => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        // SAFETY: between fork and exec; two system calls, which allocate nothing and take no lock.
        #[expect(
            unsafe_code,
            reason = "the standard library has no call for what a process does when its parent dies"
        )]
        unsafe {
            command.pre_exec(follow)
        };
        let child = match &self.cores {
            Some(cores) if program == Program::Agent => {
                cores.with_all(|| command.spawn()).with_context(starting)?
            }
            Some(_) | None => command.spawn(),
        };
        self.running.push(Running {
            program,
            child: child.with_context(starting)?,
            log,
        });
        Ok(())
    }

    /// Does `work`, unless a process ends meanwhile: that is then the error, whatever `work` made of it.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let failure = tokio::select! {
            done = work => match done {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            },
            death = self.death() => return Err(death),
        };
        // A call fails a moment before the coordinator that failed it is seen to be gone.
        Err(timeout(2 * LOOK, self.death()).await.unwrap_or(failure))
    }

    /// Returns when a process has ended by itself.
    async fn death(&mut self) -> anyhow::Error {
        loop {
            for running in &mut self.running {
                match running.child.try_wait() {
                    Ok(None) => (),
                    Ok(Some(status)) => return running.obituary(status),
                    Err(error) => {
                        return anyhow::Error::from(error).context("watch the demo's processes");
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Ends every process, those that were started last first, so that nobody misses whom he talks to.
    pub(super) async fn stop(&mut self) {
        while let Some(mut running) = self.running.pop() {
            // Without an id it has ended, and been seen to.
            let Some(pid) = running
                .child
                .id()
                .and_then(|id| Pid::from_raw(id.cast_signed()))
            else {
                continue;
            };
            let told = kill_process(pid, Signal::TERM).is_ok();
            if !told || timeout(PATIENCE, running.child.wait()).await.is_err() {
                note(format!(
                    "{} does not end: killing it",
                    running.program.executable()
                ));
                if let Err(error) = running.child.kill().await {
                    note(format!("kill {}: {error}", running.program.executable()));
                }
            }
        }
    }
}

impl Running {
    fn obituary(&self, status: ExitStatus) -> anyhow::Error {
        let name = self.program.executable();
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let tail = tail(&text, TAIL_LINES);
        anyhow::anyhow!(
            "{name} ended by itself ({status}); the end of {}:\n{tail}",
            self.log.display()
        )
    }
}

fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command as Shell;

    use super::*;

    /// A folder with shell scripts in the programs' place. Another process writes them: a file that this one has open for
    /// writing is busy for whatever another test starts meanwhile.
    async fn scripts(folder: &Path, text: &str) -> Processes {
        for program in Program::ALL {
            let path = folder.join(program.executable());
            let write = r#"printf '#!/bin/sh\n%s\n' "$0" > "$1" && chmod 755 "$1""#;
            let written = Shell::new("sh")
                .args(["-c", write, text])
                .arg(&path)
                .status();
            assert!(written.expect("a shell").success());
        }
        Processes {
            executables: folder.to_owned(),
            folder: Folder::take(folder, PATIENCE).await.expect("free"),
            cores: None,
            running: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_death_interrupts_the_work_and_shows_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut processes = scripts(folder.path(), "echo no such device; exit 3").await;
        processes
            .start(Program::Agent, ["--device", "auto"])
            .expect("started");
        let error = processes
            .during(std::future::pending::<anyhow::Result<()>>())
            .await
            .expect_err("it ended");
        let text = error.to_string();
        assert!(
            text.starts_with("wattfarm-agent ended by itself (exit status: 3)"),
            "{text}"
        );
        assert!(text.ends_with("no such device"), "{text}");
    }

    #[tokio::test]
    async fn stop_tells_and_waits() {
        let folder = tempfile::tempdir().expect("a folder");
        let gone = folder.path().join("gone");
        let mut processes = scripts(
            folder.path(),
            &format!(
                "trap 'touch {}; exit 0' TERM; echo up; while :; do sleep 0.05; done",
                gone.display()
            ),
        )
        .await;
        processes
            .start(Program::Coordinator, ["--listen"])
            .expect("started");
        let log = folder.path().join(Program::Coordinator.log());
        while fs::read_to_string(&log).expect("a log").is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        processes.stop().await;
        assert!(gone.exists());
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("", 2), "");
    }
}
