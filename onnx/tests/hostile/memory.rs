//! What a file may make its reader take of memory: in proportion to its bytes, whatever is in them.

use std::io::Cursor;

use wattfarm_cost::Dtype;
use wattfarm_onnx::{Converted, Model, OnnxError, Sizes};

use crate::allocations::most_taken;
use crate::message::{Message, model, node, value, weight};

/// Bytes that reading and converting a file of so many may take: 16 MiB of values that shapes are made of, 12 MiB for the ten
/// thousand nodes that functions may come to, and 64 for each byte of the file, which a short node takes. Real files take 6 to 25
/// for each byte, of their graphs alone.
pub(crate) fn most(file: usize) -> usize {
    (28 << 20) + 64 * file
}

/// What a file comes to, and the most bytes that it took at once; of the file's own there are none.
pub(crate) fn of(bytes: &[u8], sizes: &Sizes) -> (Result<Converted, OnnxError>, usize) {
    most_taken(|| Model::read(Cursor::new(bytes))?.network("net", sizes, Dtype::F32))
}

fn taken(name: &str, bytes: &[u8]) -> Result<Converted, OnnxError> {
    let (converted, taken) = of(bytes, &Sizes::default());
    assert!(
        taken <= most(bytes.len()),
        "{name}: {taken} bytes for a file of {}",
        bytes.len()
    );
    converted
}

#[test]
fn real_files_take_little() {
    for name in super::REAL {
        taken(name, &super::real(name)).expect("a network");
    }
    for name in ["densenet121.onnx", "vit_b_16.onnx", "resnet50.onnx"] {
        taken(name, &super::real(name)).expect("a network");
    }
}

/// Names of few letters, so that there are many nodes to a byte.
fn short(mut number: usize) -> String {
    let mut name = String::new();
    loop {
        name.push(char::from(b'A' + (number % 26) as u8));
        number /= 26;
        if number == 0 {
            return name;
        }
    }
}

fn chain(operator: &str, length: usize, from: &str) -> Vec<Message> {
    let mut before = from.to_owned();
    let mut nodes = Vec::with_capacity(length);
    for index in 0..length {
        let at = format!("{}a", short(index));
        nodes.push(node(operator, &[&before], &at));
        before = at;
    }
    nodes
}

/// So many nodes that a network may just have them.
const MANY: usize = 18_000;

#[test]
fn many_short_nodes_take_their_share() {
    let relus = chain("Relu", MANY, "x");
    taken("relus", &model(&[1, 4], &relus, &[], &[])).expect("a network");
    let of_axes = model(&[1; 16], &relus, &[], &[]);
    taken("relus of sixteen axes", &of_axes).expect("a network");
    let twice = |at: usize| match at {
        0 => node("Add", &["x", "x"], &short(0)),
        _ => node("Add", &[&short(at - 1), &short(at - 1)], &short(at)),
    };
    let sums: Vec<Message> = (0..MANY).map(twice).collect();
    taken("sums", &model(&[1, 4], &sums, &[], &[])).expect("a network");
}

#[test]
fn what_no_node_reads_takes_its_share() {
    let named = |index: usize| format!("w{}", short(index));
    let weights: Vec<Message> = (0..MANY).map(|at| weight(&named(at), &[])).collect();
    let relus = chain("Relu", 2, "x");
    taken("weights", &model(&[1, 4], &relus, &weights, &[])).expect("a network");
    let written: Vec<Message> = (0..MANY).map(|at| value(&named(at), &[1])).collect();
    taken("shapes", &model(&[1, 4], &relus, &[], &written)).expect("a network");
}

/// The least bytes to a tensor: another name in a list.
#[test]
fn nodes_of_many_tensors_take_their_share() {
    let names: Vec<String> = (0..200_000).map(|at| format!("{}a", short(at))).collect();
    let axis = Message::default()
        .text(1, "axis")
        .varint(3, 1)
        .varint(20, 2);
    let split = names
        .iter()
        .skip(1)
        .fold(node("Split", &["x"], &names[0]), |split, name| {
            split.text(2, name)
        })
        .message(5, &axis);
    let parts: Vec<&str> = names.iter().map(String::as_str).collect();
    let joined = node("Concat", &parts[..200], "y").message(5, &axis);
    let width = names.len() as u64;
    let alone = model(&[1, width], &[split.clone(), joined.clone()], &[], &[]);
    taken("a split", &alone).expect_err("too many layers");
    let read = parts
        .iter()
        .map(|part| node("Relu", &[part], &format!("{part}b")));
    let nodes: Vec<Message> = [split].into_iter().chain(read).collect();
    taken("a split, read", &model(&[1, width], &nodes, &[], &[])).expect_err("too many layers");
    let many = vec!["x"; 400_000];
    let sum = model(&[1, 4], &[node("Sum", &many, "y")], &[], &[]);
    let refused = taken("a sum", &sum).expect_err("more sums than a network has layers");
    assert_eq!(
        refused.to_string(),
        "node `Sum_0` (Sum): 20001 nodes: a network has 1 to 20000"
    );
    let joined = node("Concat", &many, "y").message(5, &axis);
    let joined = model(&[1, 4], &[joined], &[], &[]);
    taken("a concatenation", &joined).expect_err("of more than a layer joins");
}

/// Each node of a few bytes would make some thousand values of them.
#[test]
fn values_that_shapes_are_made_of_are_bounded_together() {
    let thousands = weight("n", &[1]).varint(2, 7).varint(7, 4096);
    let mut nodes = vec![node("ConstantOfShape", &["n"], "c")];
    for operator in ["Neg", "Identity", "Abs"] {
        nodes.truncate(1);
        nodes.extend(chain(operator, MANY, "c"));
        nodes.push(node("Relu", &["x"], "y"));
        let bytes = model(&[1, 4], &nodes, std::slice::from_ref(&thousands), &[]);
        taken(operator, &bytes).expect("a network");
    }
}

/// A function whose node has long names and lists, called again and again.
#[test]
fn functions_written_out_are_bounded_by_their_bytes() {
    let long = "n".repeat(1 << 16);
    let axes = (0..60_000).fold(Message::default().text(1, "own"), |list, _| {
        list.varint(8, 1)
    });
    let inner = node("Relu", &["i"], "o").text(3, &long).message(5, &axes);
    let function = |inner: &Message| {
        let function = Message::default().text(1, "f").text(10, "own");
        function.text(4, "i").text(5, "o").message(7, inner)
    };
    let calls: Vec<Message> = chain("f", 20_000, "x")
        .into_iter()
        .map(|call| call.text(7, "own"))
        .collect();
    let graph = model(&[1, 4], &calls, &[], &[]);
    let mut file = graph.clone();
    file.extend(Message::default().message(25, &function(&inner)).0);
    assert!(matches!(
        taken("long functions", &file),
        Err(OnnxError::TooLarge(_))
    ));
    // A short one is as long as its calls.
    let mut file = graph;
    file.extend(
        Message::default()
            .message(25, &function(&node("Relu", &["i"], "o")))
            .0,
    );
    taken("short functions", &file).expect("a network");
}

/// Functions within functions: a kilobyte that is ten thousand nodes, and not more.
#[test]
fn functions_of_functions_are_bounded_by_the_files_nodes() {
    let of_levels = |levels: usize| {
        let mut file = Message::default();
        for level in 0..levels {
            let mut function = Message::default()
                .text(1, &format!("f{level}"))
                .text(10, "own")
                .text(4, "in")
                .text(5, "out");
            let (next, domain) = match level + 1 == levels {
                true => ("Relu".to_owned(), ""),
                false => (format!("f{}", level + 1), "own"),
            };
            for call in 0..9 {
                let input = if call == 0 {
                    "in".to_owned()
                } else {
                    short(call)
                };
                let output = if call == 8 {
                    "out".to_owned()
                } else {
                    short(call + 1)
                };
                function = function.message(7, &node(&next, &[&input], &output).text(7, domain));
            }
            file = file.message(25, &function);
        }
        let graph = Message::default()
            .message(11, &value("x", &[1, 4]))
            .message(1, &node("f0", &["x"], "y").text(7, "own"));
        file.message(7, &graph).0
    };
    taken("3 levels", &of_levels(3)).expect("729 nodes");
    taken("4 levels", &of_levels(4)).expect("6561 nodes");
    assert!(matches!(
        taken("5 levels", &of_levels(5)),
        Err(OnnxError::TooLarge(_))
    ));
}
