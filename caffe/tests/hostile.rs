//! Texts that no network was ever written as: each is a network or a named error, soon, and never a panic.

use std::io::Read;

use proptest::prelude::*;
use wattfarm_caffe::Model;
use wattfarm_cost::Dtype;
use wattfarm_cost::network::Sizes;

const WHOLE: [&str; 3] = [
    include_str!("networks/nin.prototxt"),
    include_str!("networks/bvlc_alexnet.prototxt"),
    include_str!("networks/vgg16_train_val.prototxt"),
];

/// Reads and converts; what is returned is shown, and must be showable.
fn survive(text: &[u8]) {
    let sizes = Sizes {
        item: Some(vec![3, 64, 64]),
        ..Sizes::default()
    };
    let converted = Model::read(text).and_then(|model| model.network("net", &sizes, Dtype::F32));
    if let Err(error) = converted {
        let text = error.to_string();
        assert!(
            text.len() < 20_000 && !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text}"
        );
    }
}

#[test]
fn what_never_ends_is_bounded() {
    let endless = std::io::repeat(b'{');
    let error = Model::read(endless.take(1 << 40)).expect_err("too large");
    assert_eq!(error.to_string(), "the file has more than 16 MiB");
    survive("a: 1 ".repeat(1 << 20).as_bytes());
    survive("layer { type: \"ReLU\" }".repeat(30_000).as_bytes());
    survive(format!("input: \"{}", "x".repeat(1 << 20)).as_bytes());
}

proptest! {
    #[test]
    fn anything_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survive(&bytes);
    }

    /// A whole text with a piece cut out, put in, or doubled.
    #[test]
    fn damage_is_survived(
        which in 0..WHOLE.len(),
        at in any::<prop::sample::Index>(),
        length in 0usize..80,
        put in "[-0-9a-zA-Z{}<>:\"'#\\[\\], .\n]{0,12}",
    ) {
        let text = WHOLE[which];
        let from = at.index(text.len());
        let to = (from + length).min(text.len());
        survive([&text[..from], &put, &text[to..]].concat().as_bytes());
    }

    /// Sizes of all kinds where sizes stand.
    #[test]
    fn any_size_is_survived(which in 0..WHOLE.len(), at in any::<prop::sample::Index>(), size in prop_oneof![
        Just("0".to_owned()), Just("-1".to_owned()), Just("1e9".to_owned()), Just(u64::MAX.to_string()),
        any::<u64>().prop_map(|size| size.to_string()), (0u64..64).prop_map(|size| size.to_string()),
    ]) {
        let numbers: Vec<(usize, &str)> = WHOLE[which].match_indices(": ").collect();
        let (place, _) = numbers[at.index(numbers.len())];
        let (before, rest) = WHOLE[which].split_at(place + 2);
        let end = rest.find([' ', '\n']).unwrap_or(rest.len());
        survive([before, &size, &rest[end..]].concat().as_bytes());
    }
}
