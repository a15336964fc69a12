//! How messages become bytes and back. Decoding is bounded: what would take too much memory is refused before it does.

use std::marker::PhantomData;

use prost::bytes::Buf as _;
use prost::{Message, Name};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::bound::check;
use crate::error::status;

/// Sends `T`, takes `U`.
#[derive(Debug, Clone)]
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Half<T>;
    type Decoder = Half<U>;

    fn encoder(&mut self) -> Half<T> {
        Half(PhantomData)
    }

    fn decoder(&mut self) -> Half<U> {
        Half(PhantomData)
    }
}

/// One way of a [`Bounded`].
#[derive(Debug, Clone)]
pub struct Half<T>(PhantomData<T>);

impl<T: Message> Encoder for Half<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to)
            .map_err(|error| Status::internal(format!("encode a message: {error}")))
    }
}

impl<T: Message + Name + Default> Decoder for Half<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        // The message lies in one piece, so this copies nothing.
        let bytes = from.copy_to_bytes(from.remaining());
        let too_large = |error: crate::bound::TooLarge| {
            status(
                Code::InvalidArgument,
                "MESSAGE_TOO_LARGE",
                error.to_string(),
                None,
            )
        };
        check(&T::full_name(), &bytes).map_err(too_large)?;
        let message = T::decode(bytes)
            .map_err(|error| Status::invalid_argument(format!("read the message: {error}")))?;
        Ok(Some(message))
    }
}
