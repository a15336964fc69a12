//! Networks built in by name: those of the NeuralPower paper, and well-known ones as torchvision runs them.
//!
//! What a name means is part of stored results: a network that changes gets another hash, and with it its measurements
//! are another network's.

mod neuralpower;
mod torchvision;

use crate::layer::Dtype;
use crate::network::{Network, NetworkBuilder, NetworkError};

/// A network that needs no file.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// What people type.
    pub name: &'static str,
    /// What it is, in a line.
    pub description: &'static str,
    /// Items in a batch, unless asked otherwise.
    pub default_batch: u64,
    /// Channels, rows and columns of an item.
    input: [u64; 3],
    steps: fn(&mut NetworkBuilder),
}

impl Builtin {
    /// The network for this batch, or for its default one. A batch that its layers refuse is an error.
    pub fn build(&self, batch: Option<u64>, dtype: Dtype) -> Result<Network, NetworkError> {
        let [channels, height, width] = self.input;
        let input = vec![batch.unwrap_or(self.default_batch), channels, height, width];
        let mut net = NetworkBuilder::new(self.name, input, dtype);
        (self.steps)(&mut net);
        net.finish()
    }
}

/// Every built-in network, in the order in which people see them.
pub fn all() -> &'static [Builtin] {
    &ALL
}

/// The built-in network of this name.
pub fn build(name: &str, batch: Option<u64>, dtype: Dtype) -> Result<Network, NetworkError> {
    match all().iter().find(|builtin| builtin.name == name) {
        Some(builtin) => builtin.build(batch, dtype),
        None => Err(NetworkError::UnknownName(name.chars().take(80).collect())),
    }
}

const IMAGENET: [u64; 3] = [3, 224, 224];

static ALL: [Builtin; 22] = [
    Builtin {
        name: "neuralpower/alexnet",
        description: "AlexNet v2 as NeuralPower measured it: convolutions, pools and dropout alone",
        default_batch: 128,
        input: IMAGENET,
        steps: neuralpower::alexnet,
    },
    Builtin {
        name: "neuralpower/nin",
        description: "Network in network as NeuralPower measured it",
        default_batch: 128,
        input: IMAGENET,
        steps: neuralpower::nin,
    },
    Builtin {
        name: "neuralpower/vgg16",
        description: "VGG-16 as NeuralPower measured it",
        default_batch: 64,
        input: IMAGENET,
        steps: neuralpower::vgg16,
    },
    Builtin {
        name: "neuralpower/overfeat",
        description: "Overfeat as NeuralPower measured it: 231 x 231 pixels",
        default_batch: 128,
        input: [3, 231, 231],
        steps: neuralpower::overfeat,
    },
    Builtin {
        name: "neuralpower/cifar10-6conv",
        description: "Six convolutions for CIFAR-10 as NeuralPower measured them: 32 x 32 pixels",
        default_batch: 128,
        input: [3, 32, 32],
        steps: neuralpower::cifar10_6conv,
    },
    Builtin {
        name: "alexnet",
        description: "AlexNet, 61.1 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::alexnet,
    },
    Builtin {
        name: "resnet18",
        description: "ResNet-18, 11.7 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::resnet18,
    },
    Builtin {
        name: "resnet50",
        description: "ResNet-50 (v1.5), 25.6 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::resnet50,
    },
    Builtin {
        name: "mobilenet_v2",
        description: "MobileNetV2: depthwise convolutions, 3.5 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::mobilenet_v2,
    },
    Builtin {
        name: "densenet121",
        description: "DenseNet-121: every layer reads all before it, 8.0 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::densenet121,
    },
    Builtin {
        name: "squeezenet1_1",
        description: "SqueezeNet 1.1, 1.2 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::squeezenet1_1,
    },
    Builtin {
        name: "vgg16",
        description: "VGG-16 without batch normalisation, 138.4 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::vgg16,
    },
    Builtin {
        name: "vgg19",
        description: "VGG-19 without batch normalisation, 143.7 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::vgg19,
    },
    Builtin {
        name: "googlenet",
        description: "GoogLeNet without its auxiliary heads, 6.6 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::googlenet,
    },
    Builtin {
        name: "vit_b_16",
        description: "Vision transformer, base, patches of 16 x 16, 86.4 M parameters in its layers",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::vit_b_16,
    },
    Builtin {
        name: "resnet34",
        description: "ResNet-34, 21.8 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::resnet34,
    },
    Builtin {
        name: "resnet101",
        description: "ResNet-101 (v1.5), 44.5 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::resnet101,
    },
    Builtin {
        name: "resnext50_32x4d",
        description: "ResNeXt-50: bottlenecks of 32 groups, 25.0 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::resnext50_32x4d,
    },
    Builtin {
        name: "mnasnet1_0",
        description: "MNASNet: depthwise convolutions of 3 and 5, 4.4 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::mnasnet1_0,
    },
    Builtin {
        name: "densenet169",
        description: "DenseNet-169, 14.1 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::densenet169,
    },
    Builtin {
        name: "squeezenet1_0",
        description: "SqueezeNet 1.0, 1.2 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::squeezenet1_0,
    },
    Builtin {
        name: "vgg11",
        description: "VGG-11 without batch normalisation, 132.9 M parameters",
        default_batch: 1,
        input: IMAGENET,
        steps: torchvision::vgg11,
    },
];
