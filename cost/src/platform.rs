//! A platform: what changes a measurement when it changes.

use serde::{Deserialize, Serialize};

use crate::Hash;

/// The device and the software that measurements belong to. Which card of its type it was, and its driver, are noted
/// beside each measurement instead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// The device and how it is run.
    pub device: Device,
    /// Version of libtorch, such as `2.11.0`.
    pub libtorch: String,
}

/// A kind of device, with what is particular to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Device {
    /// A CPU, one agent's share of it.
    Cpu {
        /// The processor's own name for itself, with family, model and stepping where the name is vague.
        model: String,
        /// Threads that compute.
        threads: u32,
        /// The widest vector instructions libtorch uses, such as `AVX512`.
        instruction_set: String,
    },
    /// An NVIDIA GPU.
    Cuda {
        /// The board's name.
        model: String,
        /// Device memory in MiB.
        memory_mib: u64,
        /// The enforced power limit in W; absent if it can't be read.
        power_limit_w: Option<u32>,
        /// `default`, or the locked clock such as `locked-1410mhz`.
        clock_policy: String,
        /// Version of CUDA.
        cuda: String,
        /// Version of cuDNN; absent if it can't be read.
        cudnn: Option<String>,
        /// Whether cuDNN picks algorithms by trying them.
        cudnn_benchmark: bool,
    },
}

/// A platform description that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct PlatformError {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Lower case, with every run of other characters than letters, digits and dots as one dash.
fn slugify(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

impl Platform {
    /// Checks what a box says of itself: texts of 1 to 120 visible characters, at least one thread, some memory.
    pub fn check(&self) -> Result<(), PlatformError> {
        let text = |field, text: &str| {
            let fine =
                (1..=120).contains(&text.chars().count()) && !text.chars().any(char::is_control);
            let reason = "must have 1 to 120 characters, none of them a control character";
            if fine {
                Ok(())
            } else {
                Err(PlatformError { field, reason })
            }
        };
        text("libtorch", &self.libtorch)?;
        match &self.device {
            Device::Cpu {
                model,
                threads,
                instruction_set,
            } => {
                text("device.model", model)?;
                text("device.instruction_set", instruction_set)?;
                let reason = "must be at least 1";
                if *threads == 0 {
                    Err(PlatformError {
                        field: "device.threads",
                        reason,
                    })
                } else {
                    Ok(())
                }
            }
            Device::Cuda {
                model,
                memory_mib,
                clock_policy,
                cuda,
                cudnn,
                power_limit_w: _,
                cudnn_benchmark: _,
            } => {
                text("device.model", model)?;
                text("device.clock_policy", clock_policy)?;
                text("device.cuda", cuda)?;
                cudnn
                    .iter()
                    .try_for_each(|version| text("device.cudnn", version))?;
                let reason = "must be at least 1";
                if *memory_mib == 0 {
                    Err(PlatformError {
                        field: "device.memory_mib",
                        reason,
                    })
                } else {
                    Ok(())
                }
            }
        }
    }

    /// The form that machines compare, version 1: JSON with the fields in their declared order.
    pub fn canonical(&self) -> String {
        let json = serde_json::to_string(self).expect("a platform is texts and numbers");
        format!("wattfarm.platform.v1|{json}")
    }

    /// The platform's name among machines.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.canonical())
    }

    /// What people type. Two platforms may have one slug (they differ in something it leaves out): the farm then gives
    /// the later one a suffix from its hash.
    pub fn slug(&self) -> String {
        let device = match &self.device {
            Device::Cpu {
                model,
                threads,
                instruction_set,
            } => format!("{model} {instruction_set} {threads}t"),
            Device::Cuda {
                model,
                power_limit_w,
                clock_policy,
                cudnn_benchmark,
                ..
            } => {
                let limit = power_limit_w
                    .map(|watts| format!(" {watts}w"))
                    .unwrap_or_default();
                let clocks = if clock_policy == "default" {
                    ""
                } else {
                    clock_policy
                };
                let benchmark = if *cudnn_benchmark { " autotuned" } else { "" };
                format!("{model}{limit} {clocks}{benchmark}")
            }
        };
        slugify(&format!("{device} torch{}", self.libtorch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slug_and_hash_are_golden() {
        let cpu = Device::Cpu {
            model: "AMD EPYC (family 25 model 17)".to_owned(),
            threads: 1,
            instruction_set: "AVX512".to_owned(),
        };
        let platform = Platform {
            device: cpu,
            libtorch: "2.11.0".to_owned(),
        };
        assert_eq!(
            platform.slug(),
            "amd-epyc-family-25-model-17-avx512-1t-torch2.11.0"
        );
        assert_eq!(
            platform.hash().to_string(),
            "c3da6afe9dce35cee64c1127f335354f7f2274df08a2aaa19b22b4c6d4b5b199"
        );
        assert_eq!(platform.check(), Ok(()));
        let json = serde_json::to_string(&platform).expect("serializes");
        assert_eq!(
            serde_json::from_str::<Platform>(&json).expect("reads back"),
            platform
        );
    }
}
