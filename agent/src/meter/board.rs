//! NVML, and nothing but NVML: what a board says of itself at the moment. Milliwatts become watts here, once.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use nvml_wrapper::enum_wrappers::device::{Clock, GpuVirtualizationMode, TemperatureSensor};
use nvml_wrapper::enums::device::{GpuLockedClocksSetting, SampleValue};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};

/// NVML's number for the total energy since the driver was loaded, in mJ.
const FIELD_TOTAL_ENERGY: u32 = 83;
/// ... for power averaged over a while, in mW.
const FIELD_POWER_AVERAGE: u32 = 185;
/// ... and for power at the moment, in mW.
const FIELD_POWER_INSTANT: u32 = 186;

/// Why the board says nothing. What a model merely lacks is no fault: it is absent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It has fallen off the bus, or the driver went away.
    #[error("the GPU is lost: {0}")]
    Lost(String),
    /// Anything else.
    #[error("NVML failed: {0}")]
    Failed(String),
}

impl From<NvmlError> for Fault {
    fn from(error: NvmlError) -> Self {
        match error {
            NvmlError::GpuLost
            | NvmlError::DriverNotLoaded
            | NvmlError::Uninitialized
            | NvmlError::ResetRequired => Self::Lost(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// What is absent on a model is `None`.
fn present<T>(found: Result<T, NvmlError>) -> Result<Option<T>, Fault> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(
            NvmlError::NotSupported
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::InvalidArg
            | NvmlError::NotFound,
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the sensors say at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Readings {
    /// Energy since the driver was loaded, in mJ.
    pub energy_mj: Option<u64>,
    /// Power at the moment, in W.
    pub instant_w: Option<f64>,
    /// Power averaged over a while, in W.
    pub average_w: Option<f64>,
    /// `nvmlDeviceGetPowerUsage`, in W: one or the other, by the model.
    pub usage_w: Option<f64>,
}

/// The conditions at the moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Clock of the multiprocessors.
    pub clock_mhz: Option<u32>,
    /// Of the chip.
    pub temperature_c: Option<u32>,
    /// Reasons for lower clocks, as NVML's bits; 0 where the model doesn't tell.
    pub reasons: u64,
    /// A process on the board that is not ours: its id.
    pub foreign: Option<u32>,
    /// Split into instances.
    pub is_mig: bool,
    /// A virtual machine's share of a board.
    pub is_vgpu: bool,
}

/// What doesn't change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The board's name.
    pub name: String,
    /// Which board of its name it is.
    pub uuid: String,
    /// Version of the driver.
    pub driver: String,
    /// Device memory in MiB.
    pub memory_mib: u64,
    /// The enforced power limit in W.
    pub power_limit_w: Option<u32>,
    /// The highest clock of the multiprocessors.
    pub clock_max_mhz: Option<u32>,
}

/// A board and the driver's library.
pub struct Board {
    nvml: Nvml,
    index: u32,
    /// Processes on the board that are ours.
    ours: BTreeSet<u32>,
}

impl Board {
    /// Opens the driver's library (the system's own unless `library` names one) and the board of this index.
    ///
    /// # Errors
    /// When there is no driver, or no such board.
    pub fn open(library: Option<&OsStr>, index: u32) -> Result<Self, Fault> {
        let nvml = match library {
            Some(path) => Nvml::builder().lib_path(path).init()?,
            None => Nvml::init()?,
        };
        let board = Self {
            nvml,
            index,
            ours: BTreeSet::from([std::process::id()]),
        };
        board.device()?;
        Ok(board)
    }

    /// How many boards there are.
    pub fn count(&self) -> Result<u32, Fault> {
        Ok(self.nvml.device_count()?)
    }

    fn device(&self) -> Result<Device<'_>, Fault> {
        Ok(self.nvml.device_by_index(self.index)?)
    }

    /// What doesn't change while the agent runs.
    pub fn describe(&self) -> Result<Description, Fault> {
        let device = self.device()?;
        Ok(Description {
            name: device.name()?,
            uuid: device.uuid()?,
            driver: self.nvml.sys_driver_version()?,
            memory_mib: device.memory_info()?.total >> 20,
            power_limit_w: present(device.enforced_power_limit())?
                .map(|milliwatts| milliwatts / 1000),
            clock_max_mhz: present(device.max_clock_info(Clock::SM))?,
        })
    }

    /// Bytes of device memory that nobody uses.
    pub fn free_bytes(&self) -> Result<u64, Fault> {
        Ok(self.device()?.memory_info()?.free)
    }

    /// What the sensors say. Each field has its own return code and type, and one that a driver doesn't know leaves the
    /// others as they are.
    pub fn readings(&self) -> Result<Readings, Fault> {
        let device = self.device()?;
        let ids = [FIELD_TOTAL_ENERGY, FIELD_POWER_AVERAGE, FIELD_POWER_INSTANT].map(FieldId);
        let mut fields = match present(device.field_values_for(&ids))? {
            Some(fields) => fields.into_iter(),
            None => Vec::new().into_iter(),
        };
        let mut next = || -> Result<Option<u64>, Fault> {
            let Some(Ok(field)) = fields.next() else {
                return Ok(None);
            };
            match field.value.map_err(Fault::from) {
                Ok(value) => Ok(whole(value)),
                Err(fault @ Fault::Lost(_)) => Err(fault),
                Err(Fault::Failed(_)) => Ok(None),
            }
        };
        let (energy_field, average, instant) = (next()?, next()?, next()?);
        let energy_mj = match energy_field {
            Some(energy) => Some(energy),
            None => present(device.total_energy_consumption())?,
        };
        let watts = |milliwatts: u64| milliwatts as f64 / 1e3;
        Ok(Readings {
            energy_mj,
            instant_w: instant.map(watts),
            average_w: average.map(watts),
            usage_w: present(device.power_usage())?.map(|milliwatts| watts(milliwatts.into())),
        })
    }

    /// The conditions. A list of processes that the driver keeps to itself is taken for empty.
    pub fn state(&self) -> Result<State, Fault> {
        let device = self.device()?;
        let mode = present(device.virtualization_mode())?;
        Ok(State {
            clock_mhz: present(device.clock_info(Clock::SM))?,
            temperature_c: present(device.temperature(TemperatureSensor::Gpu))?,
            reasons: present(device.current_throttle_reasons())?
                .map_or(0, |reasons| reasons.bits()),
            foreign: self.processes()?.difference(&self.ours).next().copied(),
            is_mig: present(device.mig_mode())?.is_some_and(|mode| mode.current != 0),
            is_vgpu: matches!(mode, Some(GpuVirtualizationMode::Vgpu)),
        })
    }

    /// The process of somebody else that is on the board, if the board can be asked.
    pub fn company(&self) -> Option<u32> {
        match self.processes() {
            Ok(all) => all.difference(&self.ours).next().copied(),
            Err(error) => {
                tracing::warn!(%error, "could not ask the board who is on it");
                None
            }
        }
    }

    /// Everybody who computes or draws on the board.
    fn processes(&self) -> Result<BTreeSet<u32>, Fault> {
        let device = self.device()?;
        let mut all = BTreeSet::new();
        for found in [
            device.running_compute_processes(),
            device.running_graphics_processes(),
        ] {
            let processes = match found {
                Err(NvmlError::NoPermission) => None,
                found => present(found)?,
            };
            all.extend(processes.into_iter().flatten().map(|process| process.pid));
        }
        Ok(all)
    }

    /// Runs `begin`, which makes our own context on the board, and takes the process that appears meanwhile for ours:
    /// inside a container the driver tells other ids than the system. Of several that appear none is taken.
    ///
    /// # Errors
    /// When the processes cannot be listed.
    pub fn adopt<T>(&mut self, begin: impl FnOnce() -> T) -> Result<T, Fault> {
        let before = self.processes()?;
        let begun = begin();
        let after = self.processes()?;
        let mut appeared = after.difference(&before);
        if let (Some(&ours), None) = (appeared.next(), appeared.next()) {
            self.ours.insert(ours);
        }
        Ok(begun)
    }

    /// Locks the clock of the multiprocessors. `false`: this driver, model or user may not.
    pub(super) fn lock_clock(&self, mhz: u32) -> Result<bool, Fault> {
        let setting = GpuLockedClocksSetting::Numeric {
            min_clock_mhz: mhz,
            max_clock_mhz: mhz,
        };
        match self.device()?.set_gpu_locked_clocks(setting) {
            Err(NvmlError::NoPermission) => Ok(false),
            found => Ok(present(found)?.is_some()),
        }
    }

    /// Puts the clock back.
    pub(super) fn unlock_clock(&self) -> Result<(), Fault> {
        Ok(self.device()?.reset_gpu_locked_clocks()?)
    }
}

/// A value of whatever type the field has, if it is a whole number that is not negative.
fn whole(value: SampleValue) -> Option<u64> {
    match value {
        SampleValue::U32(value) => Some(value.into()),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(value) => (value >= 0.0).then_some(value as u64),
    }
}
