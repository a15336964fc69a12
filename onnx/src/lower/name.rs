//! Names of layers: a module's path where the file tells it, by its weights or by the exporter's scopes.

use crate::error::shown;
use crate::fuse::{Role, Whole};
use crate::graph::{Graph, Step};

/// The most characters of a name: networks take 200, and views get a suffix.
const CHARACTERS_MAX: usize = 150;

pub(super) fn shorten(name: &str) -> String {
    match name.trim() {
        "" => "constant".to_owned(),
        name => name.chars().take(CHARACTERS_MAX).collect(),
    }
}

/// The name of a step's layer.
pub(super) fn of(graph: &Graph, step: &Step, index: usize, role: &Role) -> String {
    let weighted = match role {
        Role::Whole(Whole::Biased(product)) => &graph.steps[*product],
        Role::Own | Role::Part | Role::Whole(_) => step,
    };
    let named_by_weight = matches!(
        weighted.node.operator.as_str(),
        "Conv"
            | "ConvTranspose"
            | "Gemm"
            | "BatchNormalization"
            | "LayerNormalization"
            | "MatMul"
            | "Gather"
    );
    if named_by_weight {
        // An embedding's table comes first, everything else's weight second.
        let path = weighted.inputs.iter().take(2).flatten().find_map(|&id| {
            let path = graph.names[id].strip_suffix(".weight")?;
            (!path.is_empty()).then(|| shorten(&shown(path)))
        });
        if let Some(path) = path {
            return path;
        }
    }
    shorten(&scoped(&step.node.title(index)))
}

/// `/layer1/layer1.0/relu/Relu` as `layer1.0.relu.Relu`: each part that has the one before in it replaces it.
fn scoped(title: &str) -> String {
    let Some(rest) = title.strip_prefix('/') else {
        return title.to_owned();
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        let grows = parts.last().is_some_and(|last| {
            part.strip_prefix(last)
                .is_some_and(|more| more.starts_with('.'))
        });
        if grows {
            parts.pop();
        }
        parts.push(part);
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_paths() {
        assert_eq!(scoped("/layer1/layer1.0/relu/Relu"), "layer1.0.relu.Relu");
        assert_eq!(scoped("/Flatten"), "Flatten");
        assert_eq!(scoped("node_conv2d"), "node_conv2d");
    }
}
