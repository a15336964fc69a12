//! Keeps a measuring process: starts it, hands it jobs, ends it when it hangs, and starts another.

use std::collections::VecDeque;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::measuring::{Job, Outcome, Word, YIELDED, encode};

/// Jobs that the process has at once: when it is done with one, the next is there.
const HANDED_MAX: usize = 2;

/// How long a process may take to end once it has been told so.
const END_MAX: Duration = Duration::from_secs(2);

/// The longest pause before another process is started. The shortest is a hundredth of that.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Measure.
    Measure,
    /// Leave the device to its owner: no process of ours is there.
    Rest,
    /// The agent stops.
    Stop,
}

/// How to start the process, and how long it may be silent.
pub struct Keeper {
    /// Makes the command.
    pub command: Box<dyn Fn() -> Command + Send + Sync>,
    /// Nothing moving on for so long while it has a job: it hangs. Before it has found its device it may wait for somebody
    /// else to leave it for as long as that takes.
    pub silence_max: Duration,
}

impl Keeper {
    /// Keeps processes, and passes on their words, until the wish is [`Wish::Stop`]. A job of which a process said nothing
    /// before its end is done all the same: [`Word::Done`] tells what became of it.
    ///
    /// # Errors
    /// When the first process never gets ready: its own words on stderr say why.
    pub async fn keep(
        self,
        mut jobs: mpsc::Receiver<Job>,
        news: mpsc::Sender<Word>,
        mut wish: watch::Receiver<Wish>,
    ) -> anyhow::Result<()> {
        let mut handed: VecDeque<Job> = VecDeque::new();
        let (mut was_ready, mut pause) = (false, PAUSE_MAX / 100);
        loop {
            let wished = match wish.has_changed() {
                Ok(_) => *wish.borrow_and_update(),
                // Whoever wished is gone.
                Err(_) => Wish::Stop,
            };
            if wished != Wish::Measure {
                for job in handed.drain(..) {
                    tell(&news, Word::Done(job.lease, Outcome::Returned)).await;
                }
            }
            match wished {
                Wish::Measure => (),
                Wish::Rest => {
                    rest(&mut jobs, &news, &mut wish).await;
                    continue;
                }
                Wish::Stop => return Ok(()),
            }
            let mut process = Process::start(&self, handed)?;
            let end = process.run(&mut jobs, &news, &mut wish).await;
            let (is_ready, did_something) = (process.is_ready, process.did_something);
            if did_something {
                pause = PAUSE_MAX / 100;
            }
            let (left, because) = process.end(end, &news).await;
            handed = left;
            let Some(because) = because else {
                continue;
            };
            tracing::error!("the measuring process is gone: {because}");
            was_ready |= is_ready;
            anyhow::ensure!(was_ready, "the measuring process could not begin");
            let _ = timeout(pause, wish.changed()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Hands back what comes, until there is another wish.
async fn rest(
    jobs: &mut mpsc::Receiver<Job>,
    news: &mpsc::Sender<Word>,
    wish: &mut watch::Receiver<Wish>,
) {
    loop {
        tokio::select! {
            _ = wish.changed() => return,
            Some(job) = jobs.recv() => tell(news, Word::Done(job.lease, Outcome::Returned)).await,
        }
    }
}

/// Nobody hears any more only when the agent ends.
async fn tell(news: &mpsc::Sender<Word>, word: Word) {
    let _ = news.send(word).await;
}

/// Why a process is to end, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is another wish.
    Wished,
    /// It hangs.
    Silent,
    /// It is gone.
    Died,
}

struct Process {
    child: Child,
    /// Gone once the process has been told to end.
    orders: Option<ChildStdin>,
    words: Lines<BufReader<ChildStdout>>,
    /// In the order in which it measures them.
    handed: VecDeque<Job>,
    is_ready: bool,
    did_something: bool,
    heard_at: Instant,
    silence_max: Duration,
}

impl Process {
    fn start(keeper: &Keeper, handed: VecDeque<Job>) -> anyhow::Result<Self> {
        let mut command = (keeper.command)();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            // Ctrl-C in a terminal is for the agent, which ends this process in order.
            .process_group(0);
        let mut child = command.spawn().context("start the measuring process")?;
        let orders = child.stdin.take();
        let words = child.stdout.take().context("take its stdout")?;
        Ok(Self {
            child,
            orders,
            words: BufReader::new(words).lines(),
            handed,
            is_ready: false,
            did_something: false,
            heard_at: Instant::now(),
            silence_max: keeper.silence_max,
        })
    }

    async fn run(
        &mut self,
        jobs: &mut mpsc::Receiver<Job>,
        news: &mpsc::Sender<Word>,
        wish: &mut watch::Receiver<Wish>,
    ) -> End {
        loop {
            let is_expected = self.is_ready && !self.handed.is_empty();
            let silent_at = self.heard_at + self.silence_max;
            let may_take = self.is_ready && self.handed.len() < HANDED_MAX;
            tokio::select! {
                line = self.words.next_line() => match self.word(line) {
                    Some(word) => {
                        if word == Word::Alive {
                            continue;
                        }
                        let handed_over = match &word {
                            Word::Ready(_) => self.hand_over_all().await,
                            _ => Ok(()),
                        };
                        tell(news, word).await;
                        if handed_over.is_err() {
                            return End::Died;
                        }
                    }
                    None => return End::Died,
                },
                job = jobs.recv(), if may_take => match job {
                    Some(job) => {
                        let said = self.say(&job).await;
                        self.handed.push_back(job);
                        if said.is_err() {
                            return End::Died;
                        }
                        if self.handed.len() == 1 {
                            self.heard_at = Instant::now();
                        }
                    }
                    None => return End::Wished,
                },
                () = sleep_until(silent_at), if is_expected => return End::Silent,
                changed = wish.changed() => {
                    if changed.is_err() || *wish.borrow() != Wish::Measure {
                        return End::Wished;
                    }
                }
            }
        }
    }

    /// What a line says, noted; `None` when no more can come.
    fn word(&mut self, line: io::Result<Option<String>>) -> Option<Word> {
        let line = line.ok().flatten()?;
        let word = match serde_json::from_str(&line) {
            Ok(word) => word,
            Err(error) => {
                tracing::error!(%error, "a word of the measuring process could not be understood");
                return None;
            }
        };
        self.heard_at = Instant::now();
        match &word {
            Word::Ready(_) => self.is_ready = true,
            Word::Done(lease, _) => {
                self.did_something = true;
                self.handed.retain(|job| job.lease != *lease);
            }
            Word::Alive | Word::Canary(_) => (),
        }
        Some(word)
    }

    async fn say(&mut self, job: &Job) -> io::Result<()> {
        match &mut self.orders {
            Some(orders) => orders.write_all(&encode(job)?).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// What a process before it left undone.
    async fn hand_over_all(&mut self) -> io::Result<()> {
        for job in self.handed.clone() {
            self.say(&job).await?;
        }
        Ok(())
    }

    /// Ends the process, tells what became of the job that it was at, and returns those behind it, and why it is gone unless
    /// that was wished for or is nobody's fault.
    async fn end(mut self, end: End, news: &mpsc::Sender<Word>) -> (VecDeque<Job>, Option<String>) {
        let because = match end {
            End::Wished => {
                self.dismiss(news).await;
                for job in self.handed.drain(..) {
                    tell(news, Word::Done(job.lease, Outcome::Returned)).await;
                }
                None
            }
            End::Silent => Some(format!(
                "nothing moved on for {:.0} s: its process was ended",
                self.silence_max.as_secs_f64()
            )),
            End::Died => {
                drop(self.orders.take());
                match timeout(END_MAX, self.child.wait()).await {
                    Ok(Ok(status)) if status.code() == Some(YIELDED) => {
                        self.tell_of_first(news, Outcome::Returned).await;
                        None
                    }
                    Ok(Ok(status)) => Some(format!("its process died: {status}")),
                    Ok(Err(error)) => Some(format!("its process died: {error}")),
                    Err(_) => Some("what it said could not be understood".to_owned()),
                }
            }
        };
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "could not end the measuring process");
        }
        // One that was never ready has got no job to fail.
        if let Some(because) = &because
            && self.is_ready
        {
            self.tell_of_first(news, Outcome::Failed(because.clone()))
                .await;
        }
        (self.handed, because)
    }

    /// Has the process end by itself, and passes on what it still says.
    async fn dismiss(&mut self, news: &mpsc::Sender<Word>) {
        drop(self.orders.take());
        let until = Instant::now() + END_MAX;
        while let Ok(line) = timeout_at(until, self.words.next_line()).await
            && let Some(word) = self.word(line)
        {
            if word != Word::Alive {
                tell(news, word).await;
            }
        }
    }

    /// What became of the job that the process was at.
    async fn tell_of_first(&mut self, news: &mpsc::Sender<Word>, outcome: Outcome) {
        if let Some(job) = self.handed.pop_front() {
            tell(news, Word::Done(job.lease, outcome)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::measurement::{Recipe, Subject};
    use wattfarm_cost::{Kind, Platform};

    use super::*;

    /// A process that says what `script` has it say. `READY` is its first word, `DONE` an answer to the job of lease 1.
    fn kept(script: &str, silence_ms: u64) -> Kept {
        let platform: Platform = crate::device::cpu_platform().expect("a CPU");
        let word = |word: &Word| serde_json::to_string(word).expect("a word");
        let ready = word(&Word::Ready(platform));
        let done = word(&Word::Done(1, Outcome::Infeasible("told".to_owned())));
        let script = script.to_owned();
        let keeper = Keeper {
            command: Box::new(move || {
                let mut command = Command::new("sh");
                command
                    .args(["-c", &script])
                    .env("READY", &ready)
                    .env("DONE", &done);
                command
            }),
            silence_max: Duration::from_millis(silence_ms),
        };
        let (jobs, job_queue) = mpsc::channel(8);
        let (words, news) = mpsc::channel(8);
        let (wish, wishes) = watch::channel(Wish::Measure);
        let keeping = tokio::spawn(keeper.keep(job_queue, words, wishes));
        Kept {
            jobs,
            news,
            wish,
            keeping,
        }
    }

    struct Kept {
        jobs: mpsc::Sender<Job>,
        news: mpsc::Receiver<Word>,
        wish: watch::Sender<Wish>,
        keeping: tokio::task::JoinHandle<anyhow::Result<()>>,
    }

    impl Kept {
        async fn send(&self, lease: u64) {
            let job = Job {
                id: String::new(),
                lease,
                subject: Subject::Layer(Kind::Relu.example()),
                recipe: Recipe::LAYER,
                want_power: false,
            };
            self.jobs.send(job).await.expect("kept");
        }

        async fn word(&mut self) -> Word {
            let word = timeout(Duration::from_secs(20), self.news.recv()).await;
            word.expect("in time").expect("kept")
        }

        async fn ready(&mut self) {
            let word = self.word().await;
            assert!(matches!(word, Word::Ready(_)), "{word:?}");
        }

        async fn stop(self) {
            self.wish.send_replace(Wish::Stop);
            let ended = timeout(Duration::from_secs(20), self.keeping).await;
            ended
                .expect("in time")
                .expect("no panic")
                .expect("no error");
        }
    }

    #[tokio::test]
    async fn a_process_that_hangs_is_ended_and_the_jobs_behind_are_the_next_ones() {
        // The first process reads a job and says nothing more; those after it answer.
        let folder = tempfile::tempdir().expect("a folder");
        let mark = folder.path().join("mark");
        let script = format!(
            "echo \"$READY\"; read job; if mkdir {0} 2> /dev/null; then exec sleep 1000; fi; echo \"$DONE\"; cat > /dev/null",
            mark.display()
        );
        let mut kept = kept(&script, 300);
        kept.ready().await;
        kept.send(7).await;
        kept.send(1).await;
        let Word::Done(7, Outcome::Failed(because)) = kept.word().await else {
            panic!("the one that hung has failed")
        };
        assert!(because.contains("nothing moved on"), "{because}");
        kept.ready().await;
        let answer = Outcome::Infeasible("told".to_owned());
        assert_eq!(kept.word().await, Word::Done(1, answer));
        kept.stop().await;
    }

    #[tokio::test]
    async fn a_process_that_says_that_it_lives_may_take_its_time() {
        let script = "echo \"$READY\"; read job; \
                      for i in 1 2 3 4 5 6; do sleep 0.2; echo '\"alive\"'; done; echo \"$DONE\"; cat > /dev/null";
        let mut kept = kept(script, 600);
        kept.ready().await;
        kept.send(1).await;
        assert!(matches!(
            kept.word().await,
            Word::Done(1, Outcome::Infeasible(_))
        ));
        kept.stop().await;
    }

    #[tokio::test]
    async fn one_that_crashes_fails_its_job_and_one_that_yields_hands_it_back() {
        for (end, is_failure) in [("kill -9 $$", true), ("exit 75", false)] {
            let script = format!("echo \"$READY\"; read job; {end}");
            let mut kept = kept(&script, 60_000);
            kept.ready().await;
            kept.send(1).await;
            match kept.word().await {
                Word::Done(1, Outcome::Failed(because)) if is_failure => {
                    assert!(because.contains("signal: 9"), "{because}");
                }
                Word::Done(1, Outcome::Returned) if !is_failure => (),
                other => panic!("{end}: {other:?}"),
            }
            kept.ready().await;
            kept.stop().await;
        }
    }

    #[tokio::test]
    async fn the_owners_hours_end_the_process_at_once_and_bring_it_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let alive = folder.path().join("alive");
        let script = format!(
            "touch {0}; echo \"$READY\"; cat > /dev/null; rm {0}",
            alive.display()
        );
        let mut kept = kept(&script, 60_000);
        kept.ready().await;
        kept.send(1).await;
        kept.wish.send_replace(Wish::Rest);
        assert_eq!(kept.word().await, Word::Done(1, Outcome::Returned));
        kept.send(2).await;
        assert_eq!(kept.word().await, Word::Done(2, Outcome::Returned));
        assert!(!alive.exists(), "no process while the owner has it");
        kept.wish.send_replace(Wish::Measure);
        kept.ready().await;
        assert!(alive.exists());
        kept.stop().await;
        assert!(!alive.exists());
    }

    #[tokio::test]
    async fn a_process_ends_with_whoever_wanted_it() {
        let mut kept = kept("echo \"$READY\"; cat > /dev/null", 60_000);
        kept.ready().await;
        drop((kept.wish, kept.jobs));
        let ended = timeout(Duration::from_secs(20), kept.keeping).await;
        ended
            .expect("in time")
            .expect("no panic")
            .expect("no error");
    }

    #[tokio::test]
    async fn one_that_talks_nonsense_is_ended() {
        let script = "echo \"$READY\"; read job; echo nonsense; exec sleep 1000";
        let mut kept = kept(script, 60_000);
        kept.ready().await;
        kept.send(1).await;
        let Word::Done(1, Outcome::Failed(because)) = kept.word().await else {
            panic!("its job has failed")
        };
        assert!(because.contains("understood"), "{because}");
        kept.stop().await;
    }

    /// The second process never gets ready: what it never got is handed back and not failed.
    #[tokio::test]
    async fn what_no_process_got_is_handed_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mark = folder.path().join("mark");
        let script = format!(
            "if mkdir {0} 2> /dev/null; then echo \"$READY\"; read job; read job; exit 1; else exit 2; fi",
            mark.display()
        );
        let mut kept = kept(&script, 60_000);
        kept.ready().await;
        kept.send(7).await;
        kept.send(1).await;
        let failed = kept.word().await;
        assert!(
            matches!(failed, Word::Done(7, Outcome::Failed(_))),
            "{failed:?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
        kept.wish.send_replace(Wish::Rest);
        assert_eq!(kept.word().await, Word::Done(1, Outcome::Returned));
        kept.stop().await;
    }

    #[tokio::test]
    async fn a_process_that_never_begins_is_an_error() {
        let kept = kept("exit 1", 60_000);
        let ended = timeout(Duration::from_secs(20), kept.keeping).await;
        let error = ended
            .expect("in time")
            .expect("no panic")
            .expect_err("no process");
        assert!(error.to_string().contains("could not begin"), "{error}");
    }
}
