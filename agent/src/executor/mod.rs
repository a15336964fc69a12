//! Running layers and networks in libtorch, in eager mode without gradients. The only place that knows tch.

mod allocator;
pub mod cuda;
mod flush;
mod layer;
mod network;
mod values;

use std::rc::Rc;
use std::sync::OnceLock;

use tch::{Kind, TchError, Tensor};
use wattfarm_cost::layer::{Dtype, Layer, MemoryFormat, Shape};
use wattfarm_cost::measurement::Subject;
use wattfarm_cost::network::{NetworkBuilder, window};

use crate::recipe::{Failure, Workload};
use values::Values;

/// Bytes that a job may need beside its tensors: the library's own working memory (unrolled images, reordered weights)
/// can be as large as the layer.
const HEADROOM: u64 = 3;

/// How much memory jobs may use.
pub struct Memory {
    /// Bytes that the owner lends at most: what needs more is infeasible here, now and later.
    pub limit: u64,
    /// Bytes that are free at the moment: what needs more may go better another time.
    pub available: Box<dyn Fn() -> u64 + Send>,
}

/// The device that this process measures, chosen once: an agent is one device.
static DEVICE: OnceLock<tch::Device> = OnceLock::new();

/// Where tensors are made.
fn device() -> tch::Device {
    *DEVICE.get_or_init(|| tch::Device::Cpu)
}

/// Builds workloads. One a thread: libtorch's thread settings belong to the thread that makes them.
pub struct Executor {
    values: Values,
    memory: Memory,
    events: Option<Rc<cuda::Runtime>>,
}

impl Executor {
    /// Prepares libtorch in the calling thread: one thread, seeded.
    pub fn new(memory: Memory) -> Self {
        tch::set_num_threads(1);
        tch::manual_seed(0);
        Self {
            values: Values::new(),
            memory,
            events: None,
        }
    }

    /// Prepares libtorch for a GPU, by its index, in the calling thread. The process measures that GPU from now on.
    pub fn on_cuda(index: usize, runtime: cuda::Runtime, memory: Memory) -> Self {
        // Only the first choice counts, and nothing else makes one before.
        let _ = DEVICE.set(tch::Device::Cuda(index));
        Self {
            events: Some(Rc::new(runtime)),
            ..Self::new(memory)
        }
    }

    /// Makes a subject's tensors. What the platform cannot run is infeasible, with the reason.
    pub fn build(&self, subject: &Subject) -> Result<Box<dyn Workload>, Failure> {
        let bytes = match subject {
            Subject::Layer(layer) => {
                (layer.work().bytes()).saturating_add(layer::padded_bytes(layer))
            }
            Subject::Network(network) => network::peak_bytes(network),
        };
        let needed = bytes.saturating_mul(HEADROOM);
        let told = |of: u64| format!("needs about {} MiB of {} MiB", needed >> 20, of >> 20);
        let available = (self.memory.available)();
        if needed > self.memory.limit {
            return Err(Failure::Infeasible(told(self.memory.limit)));
        }
        if needed > available {
            return Err(Failure::Failed(told(available)));
        }
        let _guard = tch::no_grad_guard();
        let workload: Box<dyn Workload> = match subject {
            Subject::Layer(layer) => Box::new(layer::LayerWorkload::build(layer, &self.values)?),
            Subject::Network(network) => {
                Box::new(network::NetworkWorkload::build(network, &self.values)?)
            }
        };
        match &self.events {
            None => Ok(workload),
            Some(runtime) => {
                cuda::allow_tf32(dtype(subject) == Dtype::Tf32)?;
                Ok(Box::new(cuda::OnGpu::new(workload, Rc::clone(runtime))?))
            }
        }
    }

    /// Gives memory that jobs have freed back to the system.
    pub fn release_memory(&self) {
        allocator::release();
        if self.events.is_some() {
            cuda::release_memory();
        }
    }
}

/// Makes the allocator keep what is freed. To be called first thing in `main`: a thread that has allocated before has an
/// arena of its own, which maps and unmaps large blocks all the same, and a layer with large weights then takes twice as
/// long.
pub fn prepare_process() {
    allocator::keep_freed_memory();
}

/// The version of the libtorch that is loaded, such as `2.11.0`.
pub fn libtorch_version() -> String {
    #[expect(unsafe_code, reason = "libtorch's C interface to its version")]
    let version = {
        unsafe extern "C" {
            fn aoti_torch_abi_version() -> u64;
        }
        // SAFETY: a function of libtorch_cpu without arguments that returns a constant.
        unsafe { aoti_torch_abi_version() }
    };
    let part = |shift: u32| (version >> shift) & 0xff;
    format!("{}.{}.{}", part(56), part(48), part(40))
}

/// What libtorch says went wrong, as far as the farm cares: its first line.
impl From<TchError> for Failure {
    fn from(error: TchError) -> Self {
        let text = error.to_string();
        let line: String = text
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("unknown")
            .chars()
            .take(300)
            .collect();
        let infeasible = [
            "can't allocate memory",
            "out of memory",
            "not implemented",
            "Could not run",
            "overflowed",
            "integer out of range",
        ];
        match infeasible.iter().any(|cause| text.contains(cause)) {
            true => Self::Infeasible(line),
            false => Self::Failed(line),
        }
    }
}

/// The type of numbers on this device. TF32 is a way of multiplying that CPUs don't have.
fn kind(dtype: Dtype) -> Result<Kind, Failure> {
    match dtype {
        Dtype::F32 => Ok(Kind::Float),
        Dtype::F16 => Ok(Kind::Half),
        Dtype::Bf16 => Ok(Kind::BFloat16),
        Dtype::Tf32 if device().is_cuda() => Ok(Kind::Float),
        Dtype::Tf32 => Err(Failure::Infeasible("a CPU has no TF32".to_owned())),
    }
}

/// The type of a subject's numbers.
fn dtype(subject: &Subject) -> Dtype {
    match subject {
        Subject::Layer(layer) => layer.dtype(),
        Subject::Network(network) => {
            let first = network.layers().next();
            first.map_or(Dtype::F32, |(_, layer)| layer.dtype())
        }
    }
}

/// A layer that draws much and takes little time on any device: what sensors are probed with.
pub fn probe_load() -> Subject {
    let (batch, channels) = if device().is_cuda() {
        (8, 256)
    } else {
        (1, 64)
    };
    let mut builder = NetworkBuilder::new("probe", vec![batch, channels, 56, 56], Dtype::F32);
    let input = builder.input();
    builder.conv2d("conv", input, channels, window(3, 1, 1), 1, false);
    Subject::Network(
        builder
            .finish()
            .expect("a convolution that every test builds"),
    )
}

/// The layer that an agent's canary is: a convolution that every device runs in a millisecond or so, and that stays in a
/// CPU's own cache, where strangers' work reaches it least. Another one is another canary.
pub fn canary_layer() -> Layer {
    let batch = if device().is_cuda() { 64 } else { 1 };
    let mut builder = NetworkBuilder::new("canary", vec![batch, 64, 28, 28], Dtype::F32);
    let input = builder.input();
    builder.conv2d("conv", input, 64, window(3, 1, 1), 1, false);
    let network = builder
        .finish()
        .expect("a convolution that every test builds");
    let first = network.layers().next();
    first.expect("it has one layer").1.clone()
}

fn sizes(shape: &Shape) -> Vec<i64> {
    // Checked layers hold at most 2^40 values.
    shape.iter().map(|&size| size as i64).collect()
}

/// An uninitialised tensor whose values lie as the format says: tch has no memory formats, so channels-last is a
/// contiguous tensor with its channels last, seen through a permutation.
fn empty(shape: &Shape, kind: Kind, format: MemoryFormat) -> Result<Tensor, TchError> {
    let options = (kind, device());
    match (format, shape.as_slice()) {
        (MemoryFormat::ChannelsLast, &[batch, channels, height, width]) => {
            Tensor::f_empty(sizes(&vec![batch, height, width, channels]), options)?
                .f_permute([0, 3, 1, 2])
        }
        (MemoryFormat::ChannelsLast | MemoryFormat::Contiguous, _) => {
            Tensor::f_empty(sizes(shape), options)
        }
    }
}
