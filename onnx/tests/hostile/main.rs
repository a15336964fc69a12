//! Files that are damaged, hostile or enormous: a clear error or a network, never a panic, and memory that stays bounded.

mod allocations;
mod memory;
mod message;

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use proptest::prelude::*;
use wattfarm_cost::Dtype;
use wattfarm_onnx::{Converted, Model, OnnxError, Sizes};

use message::{Message, model, node, put_varint, value, weight};

fn convert(bytes: &[u8]) -> Result<Converted, OnnxError> {
    Model::read(Cursor::new(bytes))?.network("net", &Sizes::default(), Dtype::F32)
}

fn refused(bytes: &[u8]) -> String {
    convert(bytes).expect_err("refused").to_string()
}

#[test]
fn a_graph_that_is_wrong_names_its_node() {
    let cycle = [node("Relu", &["b"], "a"), node("Add", &["a", "x"], "b")];
    assert_eq!(
        refused(&model(&[1, 4], &cycle, &[], &[])),
        "node `Relu_0` (Relu): reads its own output, directly or through others: the graph is a cycle"
    );
    let twice = [node("Relu", &["x"], "a"), node("Tanh", &["x"], "a")];
    assert_eq!(
        refused(&model(&[1, 4], &twice, &[], &[])),
        "the graph makes `a` a second time at node `Tanh_1`"
    );
    let missing = [node("Relu", &["y"], "a")];
    assert_eq!(
        refused(&model(&[1, 4], &missing, &[], &[])),
        "node `Relu_0` (Relu): reads `y`, which nothing makes"
    );
    let apart = [node("Add", &["x", "w"], "a")];
    assert_eq!(
        refused(&model(&[1, 4], &apart, &[weight("w", &[3])], &[])),
        "node `Add_0` (Add): 1 x 4 and 3 do not fit each other"
    );
    let small = [node("Conv", &["x", "w"], "a")];
    assert_eq!(
        refused(&model(
            &[1, 3, 4, 4],
            &small,
            &[weight("w", &[8, 3, 7, 7])],
            &[]
        )),
        "node `Conv_0` (Conv): a window of 7 does not fit the padded 4: the input is too small"
    );
    let out_of_order = [node("Relu", &["a"], "b"), node("Tanh", &["x"], "a")];
    let network = convert(&model(&[1, 4], &out_of_order, &[], &[])).expect("only the order is odd");
    assert_eq!(network.network.nodes()[0].name, "Tanh_0");
}

#[test]
fn sizes_that_overflow_are_refused() {
    let outer = [
        node("MatMul", &["x", "w"], "a"),
        node("Add", &["a", "v"], "b"),
    ];
    let weights = [weight("w", &[2, 1 << 38]), weight("v", &[1 << 30, 1, 1])];
    assert!(refused(&model(&[4, 2], &outer, &weights, &[])).contains("beyond 2^40 values"));
    assert!(
        refused(&model(
            &[1, 4],
            &outer,
            &[weight("w", &[u64::MAX, u64::MAX])],
            &[]
        ))
        .contains("beyond 2^40 values")
    );
    let axes = vec![2; 40];
    assert!(
        refused(&model(&[1, 4], &outer, &[weight("w", &axes)], &[])).contains("more than 16 axes")
    );
    // A field that claims more than the file has.
    let mut bytes = model(&[1, 4], &outer, &[], &[]);
    bytes.truncate(2);
    put_varint(&mut bytes, 5 << 3 | 2);
    put_varint(&mut bytes, 1 << 60);
    assert!(matches!(convert(&bytes), Err(OnnxError::Malformed { .. })));
}

#[test]
fn an_unknown_operator_is_a_warning_where_its_shape_is_written() {
    let nodes = [
        node("Relu", &["x"], "a"),
        node("Frobnicate", &["a"], "b").text(7, "com.example"),
        node("Tanh", &["b"], "c"),
    ];
    assert_eq!(
        refused(&model(&[1, 4], &nodes, &[], &[])),
        "node `Frobnicate_1` (Frobnicate): there is no rule for operators of `com.example`, and the file does not say \
         the shape of its output: export it with shapes, or cut the network before this node"
    );
    let Converted { network, coverage } =
        convert(&model(&[1, 4], &nodes, &[], &[value("b", &[1, 8])])).expect("its shape is known");
    assert_eq!(network.layers().count(), 2);
    // 4 for the relu, 8 for what is not costed, 32 for the tanh.
    assert!(
        (coverage.flops_share() - 36.0 / 44.0).abs() < 1e-12,
        "{coverage:?}"
    );
    assert_eq!(
        coverage.warnings(),
        [
            "no layer stands for Frobnicate, 18.18 % of all FLOPs: not in the total are `Frobnicate_1`"
        ]
    );
}

#[test]
fn a_graph_of_which_nothing_is_costed_says_so() {
    let volume = node("Conv", &["x", "w"], "y").text(3, "stem");
    assert_eq!(
        refused(&model(
            &[1, 2, 4, 4, 4],
            &[volume],
            &[weight("w", &[3, 2, 1, 1, 1])],
            &[]
        )),
        "the graph has no layers: none stands for `stem` (Conv), and what else there may be is constant or free"
    );
    let nothing = [node("Identity", &["x"], "y")];
    assert_eq!(
        refused(&model(&[1, 4], &nothing, &[], &[])),
        "the graph has no layers: everything in it is constant or free"
    );
}

/// Each level of functions calls the next ten times: a file of a kilobyte that would be a thousand million nodes.
#[test]
fn functions_that_call_each_other_are_bounded() {
    let mut file = Message::default();
    for level in 0..9 {
        let next = if level == 8 {
            "Relu".to_owned()
        } else {
            format!("f{}", level + 1)
        };
        let domain = if level == 8 { "" } else { "own" };
        let mut function = Message::default()
            .text(1, &format!("f{level}"))
            .text(10, "own");
        function = function.text(4, "i").text(5, "o9");
        for call in 0..10 {
            let input = if call == 0 {
                "i".to_owned()
            } else {
                format!("o{}", call - 1)
            };
            let inner = node(&next, &[&input], &format!("o{call}")).text(7, domain);
            function = function.message(7, &inner);
        }
        file = file.message(25, &function);
    }
    let graph = Message::default()
        .message(11, &value("x", &[1, 4]))
        .message(1, &node("f0", &["x"], "y").text(7, "own"));
    let bytes = file.message(7, &graph).0;
    assert!(matches!(convert(&bytes), Err(OnnxError::TooLarge(_))));
    // One that calls itself.
    let function = Message::default()
        .text(1, "f")
        .text(10, "own")
        .text(4, "i")
        .text(5, "o");
    let function = function.message(7, &node("f", &["i"], "o").text(7, "own"));
    let graph = Message::default()
        .message(11, &value("x", &[1, 4]))
        .message(1, &node("f", &["x"], "y").text(7, "own"));
    let bytes = Message::default()
        .message(25, &function)
        .message(7, &graph)
        .0;
    assert!(refused(&bytes).contains("functions call each other more than 16 deep"));
}

/// Counts what is read of a file.
struct Counted<R>(R, u64);

impl<R: Read> Read for &mut Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1 += read as u64;
        Ok(read)
    }
}

impl<R: Seek> Seek for &mut Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn weights_are_never_read() {
    let weights: Vec<Message> = (0..20)
        .map(|index| weight(&format!("w{index}"), &[1024, 256]).bytes(9, &vec![1; 1 << 20]))
        .collect();
    let mut nodes = vec![node("MatMul", &["x", "w0"], "a0")];
    nodes.extend((1..20).map(|index| {
        let (at, before) = (format!("a{index}"), format!("a{}", index - 1));
        node("Concat", &[&before, &before], &at).message(
            5,
            &Message::default()
                .text(1, "axis")
                .varint(3, 1)
                .varint(20, 2),
        )
    }));
    let bytes = model(&[1, 1024], &nodes, &weights, &[]);
    let mut file = Counted(Cursor::new(bytes), 0);
    Model::read(&mut file).expect("readable");
    assert!(file.1 < 2 << 20, "{} bytes of 20 MiB were read", file.1);
}

/// A graph as long as the largest networks: in a time that nobody notices.
#[test]
fn ten_thousand_nodes_are_one_network() {
    let mut nodes = vec![node("Conv", &["x", "w"], "t0")];
    for index in 1..10_000 {
        let (at, before) = (format!("t{index}"), format!("t{}", index - 1));
        nodes.push(match index % 3 {
            0 => node("Conv", &[&before, "w2"], &at),
            1 => node("Relu", &[&before], &at),
            _ => node("Add", &[&before, "t0"], &at),
        });
    }
    let weights = [weight("w", &[8, 3, 1, 1]), weight("w2", &[8, 8, 1, 1])];
    let bytes = model(&[1, 3, 8, 8], &nodes, &weights, &[]);
    let started = std::time::Instant::now();
    let converted = convert(&bytes).expect("a network");
    assert_eq!(converted.network.layers().count(), 10_000);
    assert_eq!(converted.coverage.costed, 10_000);
    // Bounded loosely here, on machines that do other things: BENCHMARKS.md has the figure.
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}

fn real(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/networks");
    std::fs::read(folder.join(name)).expect("there")
}

const REAL: [&str; 8] = [
    "bert_block-dynamo.onnx",
    "gpt2_block.onnx",
    "vit_block-dynamo.onnx",
    "segmentation.onnx",
    "segmentation-dynamo.onnx",
    "recurrent.onnx",
    "attention-opset23.onnx",
    "signal-fixed.onnx",
];

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    for name in REAL {
        let bytes = real(name);
        for length in 0..bytes.len() {
            // Between two fields of the file, what is there is whole; an opset is read before or not.
            if let Err(error) = convert(&bytes[..length]) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(matches!(
        convert(b"PK\x03\x04, something else"),
        Err(OnnxError::Malformed { .. })
    ));
    assert!(refused(b"").contains("no graph with nodes"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(REAL.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        batch in prop_oneof![Just(None), (0..5u64).prop_map(Some), any::<u64>().prop_map(Some)],
        item in prop_oneof![Just(None), prop::collection::vec(any::<u64>(), 0..5).prop_map(Some)],
    ) {
        let mut bytes = real(name);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let sizes = Sizes { batch, item, named: vec![] };
        let (converted, taken) = memory::of(&bytes, &sizes);
        prop_assert!(taken <= memory::most(bytes.len()), "{taken} bytes for {}", bytes.len());
        if let Ok(Converted { network, coverage }) = converted {
            prop_assert_eq!(coverage.nodes, coverage.costed + coverage.free + coverage.uncosted.len());
            prop_assert!(network.layers().all(|(_, layer)| layer.work().bytes() < u64::MAX));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = convert(&bytes);
        // And as a graph, as a node, as a tensor.
        for path in [&[7][..], &[7, 1], &[7, 5], &[7, 1, 5], &[7, 11], &[25]] {
            let inner = path.iter().rev().fold(bytes.clone(), |inner, &number| {
                Message::default().bytes(number, &inner).0
            });
            let _ = convert(&inner);
        }
    }
}
