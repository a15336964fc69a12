//! Locked clocks, and that they are always put back.

use super::board::{Board, Fault};

/// The board's clock, held at one value for as long as this lives. A process that is killed leaves it locked: the next
/// start of the agent puts it back ([`LockedClock::put_back_leftover`]), as do a reboot and a reload of the driver.
pub struct LockedClock<'a> {
    board: &'a Board,
    mhz: u32,
}

impl<'a> LockedClock<'a> {
    /// Locks the clock. `None`: this driver, model or user may not, and the clock is the board's own choice.
    ///
    /// # Errors
    /// When the board doesn't answer.
    pub fn hold(board: &'a Board, mhz: u32) -> Result<Option<Self>, Fault> {
        Ok(board.lock_clock(mhz)?.then_some(Self { board, mhz }))
    }

    /// The clock that it is held at.
    pub fn mhz(&self) -> u32 {
        self.mhz
    }

    /// Undoes what an agent left behind that was killed. Quiet where clocks cannot be locked: nothing was left then.
    pub fn put_back_leftover(board: &Board) {
        if let Err(error) = board.unlock_clock() {
            tracing::debug!(%error, "no locked clock to put back");
        }
    }
}

impl Drop for LockedClock<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.board.unlock_clock() {
            tracing::error!(clock_mhz = self.mhz, %error, "could not put the clock back: it stays locked");
        }
    }
}
