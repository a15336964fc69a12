//! The real services under bytes from anywhere: each call is answered, none brings the coordinator down.

use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use wattfarm_proto::error::reason;

use super::{Farm, OPERATOR};
use crate::hostile::{Call, calls, in_earnest, mutated};

/// Messages for each call.
const MESSAGES: usize = 100;

/// Sends bytes as they are; of answers only that they came is of interest.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use prost::bytes::Buf as _;
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// Calls with these bytes; `None` if nothing came for a while, as from a stream that waits for news.
async fn send(
    channel: &Channel,
    call: &Call,
    credential: &str,
    bytes: &[u8],
) -> Option<Result<(), Status>> {
    let mut request = Request::new(bytes.to_vec());
    let bearer: MetadataValue<Ascii> = format!("Bearer {credential}").parse().expect("plain");
    request.metadata_mut().insert("authorization", bearer);
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("connected");
    let path = format!("/wattfarm.v1.{}", call.path);
    let path: PathAndQuery = path.parse().expect("a path");
    let answer = async {
        let mut answers = client
            .server_streaming(request, path, Raw)
            .await?
            .into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(Duration::from_millis(30), answer)
        .await
        .ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_answers_whatever_comes() {
    let farm = Farm::start().await;
    farm.agent(1).await;
    farm.propose_linear(3).await;
    let agent = "01".repeat(32);
    let channel: Channel = Endpoint::from_shared(format!("http://{}", farm.address))
        .expect("an address")
        .connect()
        .await
        .expect("connects");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut taken, mut refused, mut waits) = (0, 0, 0);
    for call in calls() {
        let credential = match call.path.starts_with("AgentService/") {
            true => agent.as_str(),
            false => OPERATOR,
        };
        let sound = in_earnest(&call.path);
        for _ in 0..MESSAGES {
            let bytes = mutated(&mut random, &sound);
            let mut answer = send(&channel, &call, credential, &bytes).await;
            // Each caller has so many calls a second.
            while let Some(Err(status)) = &answer
                && reason(status) == "TOO_MANY_CALLS"
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
                answer = send(&channel, &call, credential, &bytes).await;
            }
            match answer {
                Some(Ok(())) => taken += 1,
                None => waits += 1,
                Some(Err(status)) => {
                    let broken = [
                        Code::Internal,
                        Code::Unknown,
                        Code::Unavailable,
                        Code::DataLoss,
                    ];
                    assert!(!broken.contains(&status.code()), "{}: {status}", call.path);
                    refused += 1;
                }
            }
        }
    }
    println!("{taken} were taken, {refused} refused, {waits} wait for news");
    assert!(taken > 100 && refused > 500);
    // It works as before.
    let agent = farm.agent(99).await;
    farm.stop().await;
    drop(agent);
}
