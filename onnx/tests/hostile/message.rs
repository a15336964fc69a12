//! ONNX files, written by hand.

/// Protobuf, written by hand: what no exporter would write can be written too.
#[derive(Default, Clone)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    pub(crate) fn varint(mut self, number: u64, value: u64) -> Self {
        put_varint(&mut self.0, number << 3);
        put_varint(&mut self.0, value);
        self
    }

    pub(crate) fn bytes(mut self, number: u64, bytes: &[u8]) -> Self {
        put_varint(&mut self.0, number << 3 | 2);
        put_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, number: u64, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    pub(crate) fn message(self, number: u64, message: &Self) -> Self {
        self.bytes(number, &message.0)
    }
}

pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

pub(crate) fn node(operator: &str, inputs: &[&str], output: &str) -> Message {
    let message = Message::default().text(4, operator).text(2, output);
    inputs
        .iter()
        .fold(message, |message, input| message.text(1, input))
}

pub(crate) fn weight(name: &str, dims: &[u64]) -> Message {
    let message = Message::default().varint(2, 1).text(8, name);
    dims.iter()
        .fold(message, |message, &size| message.varint(1, size))
}

pub(crate) fn value(name: &str, dims: &[u64]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, &size| {
        shape.message(1, &Message::default().varint(1, size))
    });
    let tensor = Message::default().varint(1, 1).message(2, &shape);
    Message::default()
        .text(1, name)
        .message(2, &Message::default().message(1, &tensor))
}

/// A model over `x` with these nodes and weights.
pub(crate) fn model(
    input: &[u64],
    nodes: &[Message],
    weights: &[Message],
    written: &[Message],
) -> Vec<u8> {
    let graph = Message::default().message(11, &value("x", input));
    let graph = nodes
        .iter()
        .fold(graph, |graph, node| graph.message(1, node));
    let graph = weights
        .iter()
        .fold(graph, |graph, weight| graph.message(5, weight));
    let graph = written
        .iter()
        .fold(graph, |graph, value| graph.message(13, value));
    let opset = Message::default().varint(2, 17);
    Message::default().message(7, &graph).message(8, &opset).0
}
