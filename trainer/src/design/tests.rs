use std::collections::{BTreeMap, BTreeSet};

use wattfarm_cost::id::CampaignId;
use wattfarm_cost::layer::Op;
use wattfarm_cost::{Dtype, Hash, Kind, Layer};

use super::{Designer, kinds};

fn campaign(text: &str) -> CampaignId {
    text.parse().expect("a UUID")
}

fn designer() -> Designer {
    Designer::new(
        campaign("0190b7a0-0000-7000-8000-000000000001"),
        Dtype::F32,
        &[],
    )
}

fn propose(designer: &mut Designer, count: usize) -> Vec<Layer> {
    designer.propose(count, &BTreeMap::new(), |_| false)
}

fn hashes(layers: &[Layer]) -> BTreeSet<Hash> {
    layers.iter().map(Layer::hash).collect()
}

#[test]
fn five_thousand_layers_are_distinct_and_within_the_limits() {
    let layers = propose(&mut designer(), 5_000);
    assert_eq!(hashes(&layers).len(), 5_000);
    for layer in &layers {
        let work = layer.work();
        assert!(work.flops <= kinds::FLOPS_MAX, "{layer}");
        let shapes = [
            layer.input_shapes(),
            layer.parameter_shapes(),
            vec![layer.output_shape()],
        ]
        .concat();
        let largest = shapes
            .iter()
            .map(|shape| shape.iter().product::<u64>() * 4)
            .max()
            .expect("an output");
        assert!(largest <= kinds::TENSOR_BYTES_MAX, "{layer}");
    }
}

#[test]
fn all_kinds_come_within_sixty() {
    let layers = propose(&mut designer(), 60);
    let kinds: BTreeSet<Kind> = layers.iter().map(Layer::kind).collect();
    assert_eq!(kinds, BTreeSet::from(Kind::ALL));
}

#[test]
fn the_campaign_decides_and_pieces_make_the_whole() {
    let whole = propose(&mut designer(), 300);
    let mut again = designer();
    let pieces = [
        propose(&mut again, 100),
        propose(&mut again, 1),
        propose(&mut again, 199),
    ]
    .concat();
    assert_eq!(whole, pieces);
    let other = campaign("0190b7a0-0000-7000-8000-000000000002");
    let other = Designer::new(other, Dtype::F32, &[]).propose(300, &BTreeMap::new(), |_| false);
    assert!(hashes(&whole).intersection(&hashes(&other)).count() < 30);
}

/// A trainer that starts anew in the middle of a campaign goes on with layers that are not there yet.
#[test]
fn a_new_trainer_passes_over_what_is_known() {
    let first = propose(&mut designer(), 200);
    let known = hashes(&first);
    let second = designer().propose(200, &BTreeMap::new(), |hash| known.contains(hash));
    assert!(hashes(&second).is_disjoint(&known));
    assert_eq!(second.len(), 200);
}

#[test]
fn kinds_and_dtype_are_the_campaigns() {
    let kinds = [Kind::Linear, Kind::Relu];
    let id = campaign("0190b7a0-0000-7000-8000-000000000003");
    let layers = propose(&mut Designer::new(id, Dtype::F16, &kinds), 300);
    assert!(
        layers
            .iter()
            .all(|layer| kinds.contains(&layer.kind()) && layer.dtype() == Dtype::F16)
    );
}

/// Names of the strata that a convolution belongs to.
fn strata(layer: &Layer) -> Vec<&'static str> {
    let Op::Conv2d(conv) = layer.op() else {
        return Vec::new();
    };
    let kernel = (conv.kernel_h, conv.kernel_w);
    let depthwise = conv.groups > 1 && conv.groups == conv.in_channels;
    [
        ("1x1", kernel == (1, 1) && conv.in_height > 1),
        ("1x1 on 1x1", kernel == (1, 1) && conv.in_height == 1),
        (
            "3x3",
            kernel == (3, 3) && conv.groups == 1 && conv.stride_h == 1,
        ),
        (
            "3x3 stride 2",
            kernel == (3, 3) && conv.groups == 1 && conv.stride_h == 2,
        ),
        ("depthwise 3x3", depthwise && kernel == (3, 3)),
        ("depthwise 5x5", depthwise && kernel == (5, 5)),
        ("few groups", conv.groups > 1 && !depthwise),
        ("7x7 stride 2", kernel == (7, 7) && conv.stride_h == 2),
        ("11x11 stride 4", kernel == (11, 11) && conv.stride_h == 4),
        (
            "three channels",
            conv.in_channels == 3 && conv.in_height >= 96,
        ),
        ("1x7", kernel == (1, 7)),
        ("7x1", kernel == (7, 1)),
        (
            "dense",
            conv.kernel_h >= 5 && conv.kernel_h == conv.in_height && conv.pad_top == 0,
        ),
        ("dilated", conv.dilation_h > 1),
        ("valid", conv.kernel_h == 3 && conv.pad_top == 0),
        ("batch 1", conv.batch == 1),
        ("larger batch", conv.batch > 1),
    ]
    .into_iter()
    .filter_map(|(name, belongs)| belongs.then_some(name))
    .collect()
}

#[test]
fn convolutions_have_every_stratum() {
    let id = campaign("0190b7a0-0000-7000-8000-000000000004");
    let layers = propose(&mut Designer::new(id, Dtype::F32, &[Kind::Conv2d]), 600);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for stratum in layers.iter().flat_map(strata) {
        *counts.entry(stratum).or_default() += 1;
    }
    assert_eq!(counts.len(), 17, "{counts:?}");
    assert!(
        counts["1x1"] > 120 && counts["3x3"] > 90 && counts["depthwise 3x3"] > 40,
        "{counts:?}"
    );
    assert!(
        (0.6..0.85).contains(&(counts["batch 1"] as f64 / 600.0)),
        "{counts:?}"
    );
}

/// A campaign's budget is spent on many layers, not on a few large ones.
#[test]
fn large_layers_are_few() {
    let layers = propose(&mut designer(), 1_000);
    let flops = |layer: &Layer| layer.work().flops as f64;
    let mean = layers.iter().map(flops).sum::<f64>() / 1_000.0;
    assert!(mean < 4e8, "{mean}");
    assert!(layers.iter().any(|layer| flops(layer) > 3e9));
}

#[test]
fn a_used_up_space_ends_the_proposals() {
    let mut designer = designer();
    assert!(designer.propose(10, &BTreeMap::new(), |_| true).is_empty());
    assert!(propose(&mut designer, 10).is_empty());
}
