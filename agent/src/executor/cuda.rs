//! NVIDIA GPUs: libtorch's CUDA part, loaded where there is one, and the device's own clock.
//!
//! The agent is linked with libtorch's CPU part alone, so that one binary serves every box. Timing needs events, which
//! tch doesn't have: they are taken from the CUDA runtime that libtorch itself has loaded. Not tried on a real GPU yet;
//! kept small for that.
#![expect(
    unsafe_code,
    reason = "two C interfaces: the CUDA runtime's and our own shim's"
)]

use std::ffi::{OsStr, c_float, c_int, c_void};
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};
use tch::{Kind, Tensor};

use super::device;
use crate::recipe::{Clock, Failure, Scratch, Timed, Workload};

/// An event of the CUDA runtime.
type Event = *mut c_void;

unsafe extern "C" {
    fn wattfarm_allow_tf32(allowed: c_int) -> c_int;
    fn wattfarm_empty_device_cache() -> c_int;
}

/// Whether products of f32 numbers may be computed in TF32: libtorch's own default is that convolutions are.
pub(super) fn allow_tf32(allowed: bool) -> Result<(), Failure> {
    // SAFETY: sets two flags of libtorch's global context.
    match unsafe { wattfarm_allow_tf32(c_int::from(allowed)) } {
        0 => Ok(()),
        _ => Err(Failure::Failed(
            "libtorch did not take the setting of TF32".to_owned(),
        )),
    }
}

/// Gives freed device memory, which libtorch keeps, back to the device.
pub(super) fn release_memory() {
    // SAFETY: touches memory that no tensor uses.
    if unsafe { wattfarm_empty_device_cache() } != 0 {
        tracing::warn!("libtorch did not give its cached device memory back");
    }
}

/// Opens libtorch's CUDA part for the whole process. To be called before anything asks libtorch for a GPU. `false`: this
/// installation has none.
///
/// # Errors
/// When it is there and cannot be opened; the text names what is missing.
pub fn load_libtorch(library: &OsStr) -> Result<bool, libloading::Error> {
    // SAFETY: libtorch's own library, whose constructors register its kernels.
    match unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // Never closed: its kernels are registered for good.
            std::mem::forget(library);
            Ok(tch::Cuda::is_available())
        }
        Err(error) if error.to_string().contains("libtorch_cuda.so: cannot open") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes this process's context on a GPU.
pub fn begin(index: usize) {
    let _context = Tensor::zeros([1], (Kind::Float, tch::Device::Cuda(index)));
}

/// Whether cuDNN picks its algorithms by trying them.
pub fn set_cudnn_benchmark(is_on: bool) {
    tch::Cuda::cudnn_set_benchmark(is_on);
}

/// The version of the cuDNN that libtorch has loaded, such as `9.10.2`.
pub fn cudnn_version() -> Option<String> {
    let process = Library::this();
    // SAFETY: a function without arguments, whose type is that of cuDNN's header.
    let version = unsafe {
        let call: Symbol<unsafe extern "C" fn() -> usize> =
            process.get(b"cudnnGetVersion\0").ok()?;
        call()
    };
    Some(format!(
        "{}.{}.{}",
        version / 10_000,
        version % 10_000 / 100,
        version % 100
    ))
}

/// The CUDA runtime, as far as timing needs it.
pub struct Runtime {
    event_create: Symbol<unsafe extern "C" fn(*mut Event) -> c_int>,
    event_destroy: Symbol<unsafe extern "C" fn(Event) -> c_int>,
    event_record: Symbol<unsafe extern "C" fn(Event, *mut c_void) -> c_int>,
    event_synchronize: Symbol<unsafe extern "C" fn(Event) -> c_int>,
    event_elapsed: Symbol<unsafe extern "C" fn(*mut c_float, Event, Event) -> c_int>,
    device_synchronize: Symbol<unsafe extern "C" fn() -> c_int>,
    version: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>,
    /// Everything above is somewhere in this process.
    _process: Library,
}

impl Runtime {
    /// Finds the runtime that libtorch has loaded into this process.
    ///
    /// # Errors
    /// When a function is missing.
    pub fn find() -> Result<Self, libloading::Error> {
        let process = Library::this();
        // SAFETY: the types are those of the CUDA runtime's header, the same since CUDA 3.
        unsafe {
            Ok(Self {
                event_create: process.get(b"cudaEventCreate\0")?,
                event_destroy: process.get(b"cudaEventDestroy\0")?,
                event_record: process.get(b"cudaEventRecord\0")?,
                event_synchronize: process.get(b"cudaEventSynchronize\0")?,
                event_elapsed: process.get(b"cudaEventElapsedTime\0")?,
                device_synchronize: process.get(b"cudaDeviceSynchronize\0")?,
                version: process.get(b"cudaRuntimeGetVersion\0")?,
                _process: process,
            })
        }
    }

    /// The runtime's version, such as `13.0`.
    ///
    /// # Errors
    /// When the runtime doesn't answer.
    pub fn version(&self) -> Result<String, Failure> {
        let mut version = 0;
        // SAFETY: writes one integer.
        check("cudaRuntimeGetVersion", unsafe {
            (self.version)(&raw mut version)
        })?;
        Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: waits for the device.
        check("cudaDeviceSynchronize", unsafe {
            (self.device_synchronize)()
        })
    }
}

/// After an error of the device itself (an illegal address, a lost GPU) nothing in this process works any more, and a
/// job that ran out of memory on the way is told by libtorch, not here: what fails here may go better another time.
fn check(call: &str, status: c_int) -> Result<(), Failure> {
    match status {
        0 => Ok(()),
        status => Err(Failure::Failed(format!("{call} failed with {status}"))),
    }
}

/// A moment in the device's queue.
struct Mark {
    event: Event,
    runtime: Rc<Runtime>,
}

impl Mark {
    fn new(runtime: &Rc<Runtime>) -> Result<Self, Failure> {
        let mut event = ptr::null_mut();
        // SAFETY: writes one handle.
        check("cudaEventCreate", unsafe {
            (runtime.event_create)(&raw mut event)
        })?;
        Ok(Self {
            event,
            runtime: Rc::clone(runtime),
        })
    }

    /// Puts it into the queue: the default stream, which libtorch uses too.
    fn record(&self) -> Result<(), Failure> {
        // SAFETY: an event of ours on the default stream.
        check("cudaEventRecord", unsafe {
            (self.runtime.event_record)(self.event, ptr::null_mut())
        })
    }

    /// Waits until the device has come to it, and tells how long after `start` that was.
    fn since(&self, start: &Self) -> Result<Duration, Failure> {
        let mut milliseconds = 0.0;
        // SAFETY: two recorded events of ours, and room for a float.
        unsafe {
            check(
                "cudaEventSynchronize",
                (self.runtime.event_synchronize)(self.event),
            )?;
            check(
                "cudaEventElapsedTime",
                (self.runtime.event_elapsed)(&raw mut milliseconds, start.event, self.event),
            )?;
        }
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds.max(0.0)) / 1e3,
        ))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: an event of ours, used by nobody any more. A device that is lost cannot even do this; nothing is lost.
        let _ = unsafe { (self.runtime.event_destroy)(self.event) };
    }
}

/// What is walked over, weights and all: a GPU's last cache is 50 to 126 MB today, and the walk has to last longer than a
/// launch (10 us). Not judged by the additivity gap yet.
const WALKED_BYTES: usize = 128 << 20;

/// A workload on a GPU, timed by the device itself.
pub(super) struct OnGpu {
    inner: Box<dyn Workload>,
    start: Mark,
    end: Mark,
    /// Walked over on the device before each timed call.
    scratch: Option<Tensor>,
}

impl OnGpu {
    pub(super) fn new(inner: Box<dyn Workload>, runtime: Rc<Runtime>) -> Result<Self, Failure> {
        Ok(Self {
            inner,
            start: Mark::new(&runtime)?,
            end: Mark::new(&runtime)?,
            scratch: None,
        })
    }
}

impl Workload for OnGpu {
    fn write_inputs(&mut self) -> Result<(), Failure> {
        self.inner.write_inputs()
    }

    fn call(&mut self) -> Result<(), Failure> {
        self.inner.call()?;
        self.finish()
    }

    fn write_output(&mut self, bytes_max: usize) -> Result<(), Failure> {
        self.inner.write_output(bytes_max)
    }

    fn use_likely_values(&mut self) -> Result<(), Failure> {
        self.inner.use_likely_values()
    }

    fn next_place(&mut self, count: usize) -> Result<(), Failure> {
        self.inner.next_place(count)
    }

    fn evict(&mut self, _scratch: &mut Scratch, bytes: usize) -> Result<(), Failure> {
        if bytes == 0 {
            return Ok(());
        }
        let values = (WALKED_BYTES / 4) as i64;
        let scratch = match self.scratch.take() {
            Some(scratch) if scratch.numel() as i64 == values => scratch,
            _ => Tensor::f_zeros([values], (Kind::Float, device()))?,
        };
        let _ = self.scratch.insert(scratch).f_add_scalar_(1.0)?;
        Ok(())
    }

    /// The device is still at the walk and the inputs when the call is launched behind them, so that the time between the
    /// two events holds the call alone, not its way from the host: unless that takes longer than all of it, as in a
    /// network of many small layers, whose time is its host's.
    fn timed_call(&mut self, _clock: &dyn Clock) -> Result<Timed, Failure> {
        self.start.record()?;
        let launched = Instant::now();
        self.inner.call()?;
        let launch = launched.elapsed();
        self.end.record()?;
        Ok(Timed {
            took: self.end.since(&self.start)?,
            without_core: Duration::ZERO,
            launch: Some(launch),
        })
    }

    fn launch(&mut self) -> Result<(), Failure> {
        self.inner.call()
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.end.runtime.synchronize()
    }
}
