//! ONNX files as large as real ones, written here: nobody wants them in a repository.

use std::collections::HashMap;

/// Protobuf's wire format, as far as it is written here.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, number: u64, value: u64) -> Self {
        put_varint(&mut self.0, number << 3);
        put_varint(&mut self.0, value);
        self
    }

    fn bytes(mut self, number: u64, bytes: &[u8]) -> Self {
        put_varint(&mut self.0, number << 3 | 2);
        put_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, number: u64, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    fn message(self, number: u64, message: &Self) -> Self {
        self.bytes(number, &message.0)
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&first, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first < 0x80 {
            break;
        }
    }
    value
}

/// The fields of a message: number, wire type, and the bytes or, of a number, the number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, u64, &[u8])> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes);
        let (number, wire) = (key >> 3, key & 7);
        let (value, length) = match wire {
            0 => (take_varint(&mut bytes), 0),
            1 => (0, 8),
            2 => (0, take_varint(&mut bytes) as usize),
            _ => (0, 4),
        };
        let (own, rest) = bytes.split_at(length);
        bytes = rest;
        fields.push((number, wire, value, own));
    }
    fields
}

/// A message with one of its fields rewritten wherever it comes.
fn rewritten(bytes: &[u8], wanted: u64, rewrite: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut message = Message::default();
    for (number, wire, value, own) in fields(bytes) {
        message = match wire {
            0 => message.varint(number, value),
            2 if number == wanted => message.bytes(number, &rewrite(own)),
            2 => message.bytes(number, own),
            _ => {
                put_varint(&mut message.0, number << 3 | wire);
                message.0.extend_from_slice(own);
                message
            }
        };
    }
    message.0
}

/// A file that was exported without weights, with zeros for all of them: as many bytes as they have. Weights that the
/// exporter found to be alike, since all were zeros, get bytes of their own again.
pub(crate) fn with_weights(model: &[u8]) -> Vec<u8> {
    rewritten(model, 7, |graph| {
        let text = |bytes: &[u8], wanted: u64| {
            let all = fields(bytes);
            let found = all.iter().find(|(number, ..)| *number == wanted);
            found.map_or(String::new(), |(.., own)| {
                String::from_utf8_lossy(own).into_owned()
            })
        };
        let all = fields(graph);
        let weights: HashMap<String, &[u8]> = all
            .iter()
            .filter(|(number, ..)| *number == 5)
            .map(|(.., tensor)| (text(tensor, 8), *tensor))
            .collect();
        let mut message = Message::default();
        for &(number, _, value, own) in &all {
            let alike = match number {
                1 if text(own, 4) == "Identity" => weights.get(&text(own, 1)),
                _ => None,
            };
            message = match (number, alike) {
                (_, Some(tensor)) => {
                    let name = text(own, 2);
                    message.bytes(
                        5,
                        &filled(&rewritten(tensor, 8, |_| name.clone().into_bytes())),
                    )
                }
                (5, None) => message.bytes(5, &filled(own)),
                (_, None) if own.is_empty() => message.varint(number, value),
                (_, None) => message.bytes(number, own),
            };
        }
        message.0
    })
}

/// A tensor with zeros for its values, if it has none.
fn filled(tensor: &[u8]) -> Vec<u8> {
    let mut numel = 1;
    for (number, wire, value, own) in fields(tensor) {
        match (number, wire) {
            (1, 0) => numel *= value,
            (1, _) => {
                let mut packed = own;
                while !packed.is_empty() {
                    numel *= take_varint(&mut packed);
                }
            }
            (4 | 7 | 9, _) => return tensor.to_vec(),
            _ => (),
        }
    }
    let values = Message::default().bytes(9, &vec![0; 4 * numel as usize]);
    [tensor, &values.0].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Message {
    let message = Message::default()
        .text(4, operator)
        .text(2, output)
        .text(3, &format!("/body/{output}/{operator}"));
    inputs
        .iter()
        .fold(message, |message, input| message.text(1, input))
}

fn weight(name: &str, dims: &[u64]) -> Message {
    let message = Message::default().varint(2, 1).text(8, name);
    dims.iter()
        .fold(message, |message, &size| message.varint(1, size))
}

/// Residual blocks of four nodes each (a convolution, a normalisation, a function, a sum), of widths that alternate so that
/// layers differ.
pub(crate) fn deep(nodes: usize) -> Vec<u8> {
    let dims = [1, 16, 32, 32]
        .iter()
        .fold(Message::default(), |shape, &size| {
            shape.message(1, &Message::default().varint(1, size))
        });
    let tensor = Message::default().varint(1, 1).message(2, &dims);
    let input = Message::default()
        .text(1, "x")
        .message(2, &Message::default().message(1, &tensor));
    let mut graph = Message::default().message(11, &input);
    let mut x = "x".to_owned();
    for block in 0..nodes / 4 {
        let [conv, norm, relu, sum] =
            ["conv", "norm", "relu", "sum"].map(|of| format!("{of}{block}"));
        let kernel = format!("{block}.conv.weight");
        let size = [1, 3, 5][block % 3];
        let pads = [size / 2; 4].iter().fold(
            Message::default().text(1, "pads").varint(20, 7),
            |list, &pad| list.varint(8, pad),
        );
        graph = graph.message(5, &weight(&kernel, &[16, 16, size, size]));
        graph = graph.message(1, &node("Conv", &[&x, &kernel], &conv).message(5, &pads));
        let statistics = ["scale", "shift", "mean", "var"].map(|of| format!("{block}.norm.{of}"));
        for name in &statistics {
            graph = graph.message(5, &weight(name, &[16]));
        }
        let [a, b, c, d] = &statistics;
        graph = graph.message(1, &node("BatchNormalization", &[&conv, a, b, c, d], &norm));
        graph = graph.message(1, &node("Relu", &[&norm], &relu));
        graph = graph.message(1, &node("Add", &[&relu, &x], &sum));
        x = sum;
    }
    let opset = Message::default().varint(2, 17);
    Message::default().message(7, &graph).message(8, &opset).0
}
