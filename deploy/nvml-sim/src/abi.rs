//! NVML's C interface over the boards of the script, and four functions of our own for tests.
#![expect(unsafe_code, reason = "NVML's interface: pointers of whoever calls")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, ptr, thread};

use nvml_wrapper_sys::bindings::{
    nvmlClockType_enum_NVML_CLOCK_GRAPHICS as CLOCK_GRAPHICS,
    nvmlClockType_enum_NVML_CLOCK_SM as CLOCK_SM, nvmlClockType_t, nvmlDevice_t, nvmlFieldValue_t,
    nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_NONE as VIRTUALIZATION_NONE,
    nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_VGPU as VIRTUALIZATION_VGPU,
    nvmlGpuVirtualizationMode_t, nvmlMemory_v2_t, nvmlProcessInfo_t,
    nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t, nvmlTemperatureSensors_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT as TYPE_UNSIGNED_INT,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG as TYPE_UNSIGNED_LONG_LONG,
};

use crate::board::Board;
use crate::{PowerSource, SCRIPT_VARIABLE, Script};

/// NVML's ids of the fields that the agent reads.
const FIELD_TOTAL_ENERGY: c_uint = 83;
const FIELD_POWER_AVERAGE: c_uint = 185;
const FIELD_POWER_INSTANT: c_uint = 186;

/// How often this process's own processor time is looked at, where that drives the power.
const LOAD_LOOK: Duration = Duration::from_millis(2);

/// The box.
struct Sim {
    driver: String,
    boards: Vec<Board>,
    began: Instant,
    /// The time that a test has set.
    told_s: Option<f64>,
}

static SIM: Mutex<Option<Sim>> = Mutex::new(None);

fn sim() -> MutexGuard<'static, Option<Sim>> {
    // A panic in here would be a test's own end; what it left behind is as good as before.
    SIM.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    fn open() -> Result<Self, String> {
        let path = script_path().ok_or("no script")?;
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let script: Script = serde_json::from_slice(&text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self {
            driver: script.driver,
            boards: script.boards.into_iter().map(Board::new).collect(),
            began: Instant::now(),
            told_s: None,
        })
    }

    fn now(&self) -> f64 {
        self.told_s
            .unwrap_or_else(|| self.began.elapsed().as_secs_f64())
    }
}

/// The script that the environment names, or the one beside this library.
fn script_path() -> Option<PathBuf> {
    if let Some(path) = env::var_os(SCRIPT_VARIABLE) {
        return Some(path.into());
    }
    // SAFETY: asks where a function of this library lies; the kernel's loader owns the name, which outlives the call.
    let library = unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        let function = nvmlInit_v2 as extern "C" fn() -> nvmlReturn_t;
        if libc::dladdr(function as *const c_void, &raw mut found) == 0 || found.dli_fname.is_null()
        {
            return None;
        }
        CStr::from_ptr(found.dli_fname).to_str().ok()?.to_owned()
    };
    Some(PathBuf::from(library).with_extension("json"))
}

/// Opens the box unless it is open, and runs `ask` on it.
fn with_sim<T>(ask: impl FnOnce(&mut Sim) -> T) -> Option<T> {
    let mut guard = sim();
    if guard.is_none() {
        match Sim::open() {
            Ok(opened) => {
                let follows = opened
                    .boards
                    .iter()
                    .any(|board| matches!(board.script.power, PowerSource::ProcessorTime { .. }));
                *guard = Some(opened);
                if follows {
                    thread::spawn(follow_processor_time);
                }
            }
            Err(error) => {
                // There is no other way to be heard through NVML's interface.
                #[expect(clippy::print_stderr, reason = "a test's driver, without a log")]
                {
                    eprintln!("simulated NVIDIA driver: {error}");
                }
                return None;
            }
        }
    }
    guard.as_mut().map(ask)
}

/// Turns this process's use of the processor into power, for as long as the process lives.
fn follow_processor_time() {
    let mut before = (Instant::now(), processor_time());
    loop {
        thread::sleep(LOAD_LOOK);
        let after = (Instant::now(), processor_time());
        let wall = after.0.duration_since(before.0).as_secs_f64();
        let use_share = ((after.1 - before.1) / wall).clamp(0.0, 1.0);
        if let Some(sim) = sim().as_mut() {
            let now = sim.now();
            for board in &mut sim.boards {
                if let PowerSource::ProcessorTime { busy_w } = board.script.power {
                    let idle_w = board.script.idle_w;
                    // What was used in the last look is drawn in the next one: what was told stands, and no counter
                    // ever goes back.
                    board
                        .history
                        .push(now, idle_w + (busy_w - idle_w) * use_share);
                }
            }
        }
        before = after;
    }
}

/// Seconds that all threads of this process have had a core for.
fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec. The clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// A device's handle is its index and one.
fn handle(index: usize) -> nvmlDevice_t {
    ptr::without_provenance_mut(index + 1)
}

/// Runs `ask` on a board, at this moment, unless the board is lost.
fn with_board<T>(
    device: nvmlDevice_t,
    ask: impl FnOnce(&mut Board, f64) -> Result<T, nvmlReturn_t>,
) -> Result<T, nvmlReturn_t> {
    with_sim(|sim| {
        let now = sim.now();
        let index = device.addr().checked_sub(1).ok_or(INVALID_ARGUMENT)?;
        let board = sim.boards.get_mut(index).ok_or(INVALID_ARGUMENT)?;
        board.check(now)?;
        ask(board, now)
    })
    .unwrap_or(Err(UNINITIALIZED))
}

/// Writes what was found where the caller wants it.
///
/// # Safety
/// `to` has to be null or point to room for a `T`.
unsafe fn give<T>(found: Result<T, nvmlReturn_t>, to: *mut T) -> nvmlReturn_t {
    match found {
        Ok(_) if to.is_null() => INVALID_ARGUMENT,
        Ok(value) => {
            // SAFETY: the caller's.
            unsafe { to.write(value) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Writes a text with its end, if there is room for it.
///
/// # Safety
/// `to` has to point to room for `length` bytes.
unsafe fn give_text(
    found: Result<String, nvmlReturn_t>,
    to: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    match found {
        Ok(text) if text.len() >= length as usize => INSUFFICIENT_SIZE,
        Ok(text) => {
            // SAFETY: the text and its end fit, and the two don't overlap.
            unsafe {
                ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
                to.add(text.len()).write(0);
            }
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Writes as many processes as there is room for, and says how many there are.
///
/// # Safety
/// `count` has to be valid, and `to` to have room for as many processes as it says.
unsafe fn give_processes(
    found: Result<Vec<u32>, nvmlReturn_t>,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let pids = match found {
        Ok(pids) => pids,
        Err(code) => return code,
    };
    // SAFETY: the caller's.
    unsafe {
        let room = count.read() as usize;
        count.write(pids.len() as c_uint);
        if pids.len() > room || (to.is_null() && !pids.is_empty()) {
            return INSUFFICIENT_SIZE;
        }
        for (index, &pid) in pids.iter().enumerate() {
            to.add(index).write(nvmlProcessInfo_t {
                pid,
                usedGpuMemory: 1 << 30,
                gpuInstanceId: u32::MAX,
                computeInstanceId: u32::MAX,
            });
        }
    }
    SUCCESS
}

/// A function of NVML that asks a device for one value.
macro_rules! getters {
    ($($name:ident -> $type:ty: |$board:ident, $now:ident| $found:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(device: nvmlDevice_t, to: *mut $type) -> nvmlReturn_t {
                // SAFETY: NVML's own contract.
                unsafe { give(with_board(device, |$board, $now| $found), to) }
            }
        )*
    };
}

getters! {
    nvmlDeviceGetPowerUsage -> c_uint: |board, now| board.usage_mw(now);
    nvmlDeviceGetTotalEnergyConsumption -> c_ulonglong: |board, now| board.energy_mj(now);
    nvmlDeviceGetEnforcedPowerLimit -> c_uint: |board, _now| {
        board.script.power_limit_w.map(|watts| watts * 1000).ok_or(NOT_SUPPORTED)
    };
    nvmlDeviceGetCurrentClocksThrottleReasons -> c_ulonglong: |board, now| Ok(board.throttle_reasons(now));
    nvmlDeviceGetVirtualizationMode -> nvmlGpuVirtualizationMode_t: |board, now| {
        Ok(if board.is_vgpu(now) { VIRTUALIZATION_VGPU } else { VIRTUALIZATION_NONE })
    };
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    with_sim(|_| SUCCESS).unwrap_or(DRIVER_NOT_LOADED)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) -> nvmlReturn_t {
    let driver = with_sim(|sim| sim.driver.clone()).ok_or(UNINITIALIZED);
    // SAFETY: NVML's own contract.
    unsafe { give_text(driver, to, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(to: *mut c_int) -> nvmlReturn_t {
    // SAFETY: NVML's own contract.
    unsafe { give(Ok(13_000), to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> nvmlReturn_t {
    let count = with_sim(|sim| sim.boards.len() as c_uint).ok_or(UNINITIALIZED);
    // SAFETY: NVML's own contract.
    unsafe { give(count, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    to: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let device = handle(index as usize);
    // SAFETY: NVML's own contract.
    unsafe { give(with_board(device, |_, _| Ok(device)), to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    to: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML's own contract.
    unsafe {
        give_text(
            with_board(device, |board, _| Ok(board.script.name.clone())),
            to,
            length,
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    to: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    let uuid = format!("GPU-00000000-0000-0000-0000-{:012}", device.addr());
    // SAFETY: NVML's own contract.
    unsafe { give_text(with_board(device, |_, _| Ok(uuid)), to, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    to: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    let memory = with_board(device, |board, _| {
        let total = board.script.memory_mib << 20;
        Ok(nvmlMemory_v2_t {
            version: 0,
            total,
            reserved: 0,
            free: total,
            used: 0,
        })
    });
    // SAFETY: NVML's own contract.
    unsafe { give(memory, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    clock: nvmlClockType_t,
    to: *mut c_uint,
) -> nvmlReturn_t {
    let found = with_board(device, |board, now| match clock {
        CLOCK_GRAPHICS | CLOCK_SM => Ok(board.clock_mhz(now)),
        _ => Err(NOT_SUPPORTED),
    });
    // SAFETY: NVML's own contract.
    unsafe { give(found, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: nvmlDevice_t,
    clock: nvmlClockType_t,
    to: *mut c_uint,
) -> nvmlReturn_t {
    let found = with_board(device, |board, _| match clock {
        CLOCK_GRAPHICS | CLOCK_SM => Ok(board.clock_mhz_max()),
        _ => Err(NOT_SUPPORTED),
    });
    // SAFETY: NVML's own contract.
    unsafe { give(found, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: nvmlTemperatureSensors_t,
    to: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML's own contract.
    unsafe {
        give(
            with_board(device, |board, now| Ok(board.temperature_c(now))),
            to,
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    let mode = with_board(device, |board, now| Ok(c_uint::from(board.is_mig(now))));
    // SAFETY: NVML's own contract.
    unsafe {
        give(mode, pending);
        give(mode, current)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let pids = with_board(device, |board, now| Ok(board.compute_processes(now)));
    // SAFETY: NVML's own contract.
    unsafe { give_processes(pids, count, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let pids = with_board(device, |board, now| Ok(board.graphics_processes(now)));
    // SAFETY: NVML's own contract.
    unsafe { give_processes(pids, count, to) }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetGpuLockedClocks(
    device: nvmlDevice_t,
    _min_mhz: c_uint,
    max_mhz: c_uint,
) -> nvmlReturn_t {
    match with_board(device, |board, _| board.lock(Some(max_mhz))) {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceResetGpuLockedClocks(device: nvmlDevice_t) -> nvmlReturn_t {
    match with_board(device, |board, _| board.lock(None)) {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

/// Each field has its own return code and type of value, as in the real one.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    let answered = with_board(device, |board, now| {
        for index in 0..usize::try_from(count).map_err(|_| INVALID_ARGUMENT)? {
            // SAFETY: NVML's own contract: `count` values.
            let field = unsafe { &mut *values.add(index) };
            field.timestamp = (now * 1e6) as i64;
            field.latencyUsec = 0;
            let milliwatts = match field.fieldId {
                FIELD_TOTAL_ENERGY => {
                    field.nvmlReturn = match board.energy_mj(now) {
                        Ok(energy) => {
                            field.valueType = TYPE_UNSIGNED_LONG_LONG;
                            field.value.ullVal = energy;
                            SUCCESS
                        }
                        Err(code) => code,
                    };
                    continue;
                }
                FIELD_POWER_AVERAGE => board.average_mw(now),
                FIELD_POWER_INSTANT => board.instant_mw(now),
                _ => Err(NOT_SUPPORTED),
            };
            field.nvmlReturn = match milliwatts {
                Ok(power) => {
                    field.valueType = TYPE_UNSIGNED_INT;
                    // Only half of the union is written, as the real one does: the rest is whatever was there.
                    field.value.ullVal = u64::MAX;
                    field.value.uiVal = power;
                    SUCCESS
                }
                Err(code) => code,
            };
        }
        Ok(())
    });
    answered.err().unwrap_or(SUCCESS)
}

/// Time is `seconds` from now on, and no longer the machine's.
#[unsafe(no_mangle)]
extern "C" fn wattfarmSimSetTime(seconds: f64) {
    with_sim(|sim| sim.told_s = Some(seconds));
}

/// The first board truly draws `watts` from now on.
#[unsafe(no_mangle)]
extern "C" fn wattfarmSimDraw(watts: f64) {
    with_sim(|sim| {
        let now = sim.now();
        if let Some(board) = sim.boards.first_mut() {
            board.history.push(now, watts);
        }
    });
}

/// The clock that the first board is locked to, in MHz; 0 if it isn't.
#[unsafe(no_mangle)]
extern "C" fn wattfarmSimLockedMhz() -> c_uint {
    let locked = with_sim(|sim| sim.boards.first().and_then(Board::locked_mhz));
    locked.flatten().unwrap_or(0)
}

/// What the first board truly drew from `from` to `to`, both in s, on average.
#[unsafe(no_mangle)]
extern "C" fn wattfarmSimTruth(from: f64, to: f64) -> f64 {
    let truth = with_sim(|sim| sim.boards.first().map(|board| board.history.mean(from, to)));
    truth.flatten().unwrap_or(f64::NAN)
}
