//! What device this agent measures: a CPU core, its name, and keeping it to ourselves.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use wattfarm_cost::platform::{Device, Platform};

use crate::meter::Description;
use crate::{cgroup, executor};

/// The measuring thread's core and the cores left for everything else of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Where layers run.
    pub measuring: usize,
    /// Where the rest of the agent runs: the measuring core too if there is no other.
    pub others: Vec<usize>,
}

impl Cores {
    /// Splits the cores that this process may use. Without a wish the last one measures: the first ones tend to serve
    /// interrupts.
    pub fn split(wish: Option<usize>) -> anyhow::Result<Self> {
        let mut others = affinity().context("read this process's cores")?;
        let last = *others.last().context("this process may use no core")?;
        let measuring = wish.unwrap_or(last);
        ensure!(
            others.contains(&measuring),
            "core {measuring} is not among this process's cores {others:?}"
        );
        if others.len() > 1 {
            others.retain(|&core| core != measuring);
        }
        Ok(Self { measuring, others })
    }
}

/// The cores that this thread may run on, in ascending order.
fn affinity() -> std::io::Result<Vec<usize>> {
    // SAFETY: `set` is a plain bit mask, and the kernel writes at most its size.
    #[expect(unsafe_code, reason = "the standard library has no call for affinity")]
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok((0..libc::CPU_SETSIZE as usize)
            .filter(|&core| libc::CPU_ISSET(core, &set))
            .collect())
    }
}

/// Keeps the calling thread, and threads it starts from now on, on these cores.
pub fn pin(cores: &[usize]) -> std::io::Result<()> {
    // SAFETY: as in `affinity`; every index is below CPU_SETSIZE, because it came from there.
    #[expect(unsafe_code, reason = "the standard library has no call for affinity")]
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has this process end with the one that started it, and leaves it to that one to answer SIGINT and SIGTERM.
pub(crate) fn end_with_parent() -> std::io::Result<()> {
    // SAFETY: sets attributes of this process alone.
    #[expect(unsafe_code, reason = "the standard library has no such calls")]
    let status = unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
    };
    match status {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Bytes of memory that jobs may use: of all that there is, and of what can be allocated at the moment without swapping,
/// on this machine or in the container that this process runs in. A fifth stays for others.
pub fn memory() -> anyhow::Result<executor::Memory> {
    let total = meminfo("MemTotal:").context("find MemTotal in /proc/meminfo")?;
    let limit = total.min(cgroup::bounds().limit) / 5 * 4;
    let available = Box::new(|| {
        let machine = meminfo("MemAvailable:").unwrap_or(u64::MAX);
        machine.min(cgroup::bounds().available) / 5 * 4
    });
    Ok(executor::Memory { limit, available })
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let mut lines = text.lines();
    let kib = lines.find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

/// Whether a driver of NVIDIA's is loaded, and so a GPU likely there, whatever libtorch can do with it.
pub fn has_nvidia_driver() -> bool {
    Path::new("/dev/nvidiactl").exists()
}

/// The box's name for itself.
pub fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// The platform of one thread on this machine's CPU.
pub fn cpu_platform() -> anyhow::Result<Platform> {
    let text = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let processor = Processor::parse(&text)?;
    let device = Device::Cpu {
        model: processor.name(),
        threads: 1,
        instruction_set: processor.instruction_set().to_owned(),
    };
    let platform = Platform {
        device,
        libtorch: executor::libtorch_version(),
    };
    match platform.check() {
        Ok(()) => Ok(platform),
        Err(error) => bail!("this machine describes itself in a way that cannot be used: {error}"),
    }
}

/// What an agent may measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The first GPU, or else the CPU.
    Auto,
    /// One core.
    Cpu,
    /// The GPU of this index among those that CUDA shows.
    Cuda(usize),
}

/// A text that is no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of auto, cpu, cuda:N")]
pub struct WishError(String);

impl std::str::FromStr for Wish {
    type Err = WishError;
    fn from_str(text: &str) -> Result<Self, WishError> {
        let error = || WishError(text.chars().take(80).collect());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            text => {
                let index = text.strip_prefix("cuda:").ok_or_else(error)?;
                index.parse().map(Self::Cuda).map_err(|_| error())
            }
        }
    }
}

/// NVML's index of CUDA's GPU `index`, given what `CUDA_VISIBLE_DEVICES` says and CUDA's order being that of the bus. NVML
/// knows nothing of that variable.
pub fn nvml_index(index: usize, visible: Option<&str>) -> anyhow::Result<u32> {
    let own = match visible.map(str::trim).filter(|list| !list.is_empty()) {
        None => index.to_string(),
        Some(list) => {
            let entry = list.split(',').nth(index).map(str::trim);
            entry
                .with_context(|| format!("CUDA_VISIBLE_DEVICES={list} shows no GPU {index}"))?
                .to_owned()
        }
    };
    own.parse().with_context(|| {
        format!("CUDA_VISIBLE_DEVICES names a GPU as `{own}`: name it by its index, so that its meter can be found")
    })
}

/// The platform of a GPU.
pub fn cuda_platform(
    board: &Description,
    cuda: String,
    cudnn: Option<String>,
    cudnn_benchmark: bool,
    locked_mhz: Option<u32>,
) -> anyhow::Result<Platform> {
    let device = Device::Cuda {
        model: board.name.clone(),
        memory_mib: board.memory_mib,
        power_limit_w: board.power_limit_w,
        clock_policy: locked_mhz.map_or("default".to_owned(), |mhz| format!("locked-{mhz}mhz")),
        cuda,
        cudnn,
        cudnn_benchmark,
    };
    let platform = Platform {
        device,
        libtorch: executor::libtorch_version(),
    };
    platform.check().context("describe this GPU")?;
    Ok(platform)
}

/// The first processor of /proc/cpuinfo.
struct Processor<'a> {
    model_name: &'a str,
    family: &'a str,
    model: &'a str,
    flags: Vec<&'a str>,
}

impl<'a> Processor<'a> {
    fn parse(text: &'a str) -> anyhow::Result<Self> {
        let field = |name: &str| {
            let mut pairs = text
                .lines()
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.split_once(':'));
            let found = pairs
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim());
            found.with_context(|| format!("find `{name}` in /proc/cpuinfo"))
        };
        Ok(Self {
            model_name: field("model name")?,
            family: field("cpu family")?,
            model: field("model")?,
            flags: field("flags")?.split_whitespace().collect(),
        })
    }

    /// Virtual machines call many processors alike ("AMD EPYC"): family and model tell them apart.
    fn name(&self) -> String {
        format!(
            "{} (family {} model {})",
            self.model_name, self.family, self.model
        )
    }

    /// The widest of the sets that libtorch's kernels choose among.
    fn instruction_set(&self) -> &'static str {
        let has = |flag| self.flags.contains(&flag);
        if has("avx512f") && has("avx512dq") && has("avx512bw") && has("avx512vl") {
            "AVX512"
        } else if has("avx2") && has("fma") {
            "AVX2"
        } else {
            "baseline"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_told_from_its_namesakes() {
        let text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 fma\n\n\
                    processor\t: 1\nmodel name\t: other\n";
        let processor = Processor::parse(text).expect("complete");
        assert_eq!(processor.name(), "AMD EPYC (family 25 model 17)");
        assert_eq!(processor.instruction_set(), "AVX2");
        assert!(Processor::parse("model name: x\n").is_err());
    }

    #[test]
    fn devices_are_wished_for_by_name() {
        assert_eq!("cuda:3".parse(), Ok(Wish::Cuda(3)));
        assert_eq!("cuda".parse(), Ok(Wish::Cuda(0)));
        assert!("gpu".parse::<Wish>().is_err() && "cuda:x".parse::<Wish>().is_err());
    }

    #[test]
    fn a_gpu_is_the_one_that_cuda_shows() {
        assert_eq!(nvml_index(1, None).ok(), Some(1));
        assert_eq!(nvml_index(1, Some("4, 6")).ok(), Some(6));
        assert!(nvml_index(2, Some("4,6")).is_err());
        assert!(nvml_index(0, Some("GPU-8932f937")).is_err());
    }

    #[test]
    fn the_last_core_measures_and_the_others_do_the_rest() {
        let cores = Cores::split(None).expect("this process has cores");
        assert!(cores.others.len() == 1 || !cores.others.contains(&cores.measuring));
        assert!(Cores::split(Some(100_000)).is_err());
    }
}
