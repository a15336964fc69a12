//! What a test does with a simulated driver: makes one, moves its time, tells what is drawn, and asks for the truth.

use std::io;
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};

use crate::Script;

/// A copy of the library with a script of its own, and what it exports beside NVML.
///
/// Whoever opens [`Self::path`] in this process talks to the same simulated box.
#[derive(Debug)]
pub struct Simulation {
    path: PathBuf,
    library: Library,
}

impl Simulation {
    /// Puts a copy of the shared library and `script` into `folder`, and opens it. The library is the one that cargo left
    /// beside or above the running test.
    ///
    /// # Errors
    /// When the library is not there or cannot be copied or opened.
    pub fn new(folder: &Path, script: &Script) -> io::Result<Self> {
        let path = Self::place(folder, script)?;
        // SAFETY: our own library, whose constructor does nothing.
        #[expect(unsafe_code, reason = "opening a shared library runs its constructors")]
        let library = unsafe { Library::new(&path) }.map_err(io::Error::other)?;
        Ok(Self { path, library })
    }

    /// Puts a copy of the shared library and `script` into `folder`, for another process. Returns the library's path.
    ///
    /// # Errors
    /// When the library is not there or cannot be copied.
    pub fn place(folder: &Path, script: &Script) -> io::Result<PathBuf> {
        let path = folder.join("libwattfarm_nvml_sim.so");
        std::fs::copy(built_library()?, &path)?;
        std::fs::write(
            path.with_extension("json"),
            serde_json::to_vec_pretty(script)?,
        )?;
        Ok(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its time is `seconds` from now on, and no longer the machine's.
    pub fn set_time(&self, seconds: f64) {
        // SAFETY: the signature is that of `abi::wattfarmSimSetTime`.
        #[expect(unsafe_code, reason = "a call into a shared library")]
        unsafe {
            let call: Symbol<'_, extern "C" fn(f64)> = self.symbol(b"wattfarmSimSetTime\0");
            call(seconds);
        }
    }

    /// The first board truly draws `watts` from now on.
    pub fn draw(&self, watts: f64) {
        // SAFETY: the signature is that of `abi::wattfarmSimDraw`.
        #[expect(unsafe_code, reason = "a call into a shared library")]
        unsafe {
            let call: Symbol<'_, extern "C" fn(f64)> = self.symbol(b"wattfarmSimDraw\0");
            call(watts);
        }
    }

    /// The clock that the first board is locked to, in MHz.
    pub fn locked_mhz(&self) -> Option<u32> {
        // SAFETY: the signature is that of `abi::wattfarmSimLockedMhz`.
        #[expect(unsafe_code, reason = "a call into a shared library")]
        let mhz = unsafe {
            let call: Symbol<'_, extern "C" fn() -> u32> = self.symbol(b"wattfarmSimLockedMhz\0");
            call()
        };
        (mhz > 0).then_some(mhz)
    }

    /// What the first board truly drew from `from` to `to`, both in s, on average, in W.
    pub fn truth(&self, from: f64, to: f64) -> f64 {
        // SAFETY: the signature is that of `abi::wattfarmSimTruth`.
        #[expect(unsafe_code, reason = "a call into a shared library")]
        unsafe {
            let call: Symbol<'_, extern "C" fn(f64, f64) -> f64> =
                self.symbol(b"wattfarmSimTruth\0");
            call(from, to)
        }
    }

    /// # Safety
    /// `T` has to be the type of the function.
    #[expect(unsafe_code, reason = "the type of a symbol is taken on trust")]
    unsafe fn symbol<T>(&self, name: &[u8]) -> Symbol<'_, T> {
        // SAFETY: the caller's.
        unsafe { self.library.get(name) }.expect("exported by this very library")
    }
}

/// The shared library as cargo builds it: in `deps/` beside a test, or one folder up beside a binary.
fn built_library() -> io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let folders = executable.ancestors().skip(1).take(3);
    let candidates: Vec<PathBuf> = folders
        .flat_map(|folder| {
            ["deps/libwattfarm_nvml_sim.so", "libwattfarm_nvml_sim.so"]
                .map(|name| folder.join(name))
        })
        .collect();
    let found = candidates.iter().find(|path| path.is_file());
    found.cloned().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the simulated driver is in none of {candidates:?}: build wattfarm-nvml-sim first"
            ),
        )
    })
}
