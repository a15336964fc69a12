//! Reads the board into a trace.

use super::board::Board;
use super::trace::Trace;

/// How far other clocks of the machine are ahead of the one that measures, in s. A change of the first tells of a sleep,
/// of the second that somebody set the time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Offsets {
    /// The clock that goes on while the machine sleeps.
    pub boot_s: f64,
    /// The time of day.
    pub real_s: f64,
}

/// Where the meter's time comes from.
pub trait Timepiece: Sync {
    /// Seconds since some fixed moment, by a clock that nobody sets.
    fn now_s(&self) -> f64;
    /// The other clocks.
    fn offsets(&self) -> Offsets;
}

/// The conditions are read this often, in s; power at every poll.
const STATE_EVERY_S: f64 = 0.1;

/// Reads a board into traces.
#[derive(Clone, Copy)]
pub struct Recorder<'a> {
    board: &'a Board,
    time: &'a dyn Timepiece,
}

impl<'a> Recorder<'a> {
    /// Reads `board` by the clock `time`.
    pub fn new(board: &'a Board, time: &'a dyn Timepiece) -> Self {
        Self { board, time }
    }

    /// The board.
    pub fn board(&self) -> &'a Board {
        self.board
    }

    /// The clock.
    pub fn time(&self) -> &'a dyn Timepiece {
        self.time
    }

    /// Reads power, and the conditions if their time has come.
    pub fn poll(&self, trace: &mut Trace) {
        let readings = self.board.readings();
        let now_s = self.time.now_s();
        trace.take(now_s, readings);
        if trace
            .last_state_s()
            .is_none_or(|last_s| now_s - last_s >= STATE_EVERY_S)
        {
            let state = self.board.state();
            trace.take_state(self.time.now_s(), state, self.time.offsets());
        }
    }
}
