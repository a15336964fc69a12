//! The authorisation table: every call of the protocol times everybody who may come with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use uuid::Uuid;
use wattfarm_coordinator::store::MemoryStore;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::error::reason;
use wattfarm_proto::v1;

use super::Farm;

/// Who a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum For {
    /// Whoever has a token in the message.
    Anybody,
    /// Agents, each for itself.
    Agents,
    /// Keys of this role, and those that may do more.
    Read,
    Request,
    Operate,
}

/// The table. A call that isn't in it fails the test.
fn role_of(call: &str) -> For {
    match call {
        "AgentService/Enroll" => For::Anybody,
        "AgentService/LeaseJobs"
        | "AgentService/RenewLeases"
        | "AgentService/ReportResults"
        | "AgentService/ReportCanary"
        | "AgentService/RotateCredential" => For::Agents,
        "ModelService/ListPlatforms"
        | "ModelService/WatchCampaign"
        | "ModelService/GetModels"
        | "ModelService/WatchModels"
        | "ModelService/Predict" => For::Read,
        "ModelService/RequestModels" | "ModelService/Measure" => For::Request,
        "TrainerService/WatchMeasurements"
        | "TrainerService/WatchCampaigns"
        | "TrainerService/ProposeLayers"
        | "TrainerService/PublishModels"
        | "FarmService/CreateToken"
        | "FarmService/ListAgents"
        | "FarmService/DrainAgent"
        | "FarmService/RevokeAgent"
        | "FarmService/CreateKey"
        | "FarmService/ListKeys"
        | "FarmService/RevokeKey"
        | "FarmService/ListCampaigns"
        | "FarmService/CancelCampaign"
        | "FarmService/PauseCampaign"
        | "FarmService/ExtendCampaign"
        | "FarmService/ListJobs"
        | "FarmService/ExportMeasurements"
        | "FarmService/RetractMeasurements"
        | "FarmService/Backup" => For::Operate,
        call => panic!("`{call}` is not in the table"),
    }
}

/// Every call of the protocol, `Service/Method`.
fn calls() -> Vec<String> {
    let descriptors = FileDescriptorSet::decode(v1::DESCRIPTORS).expect("ours");
    let services = descriptors.file.iter().flat_map(|file| &file.service);
    let calls = services.flat_map(|service| {
        let methods = service.method.iter();
        methods.map(|method| format!("{}/{}", service.name(), method.name()))
    });
    calls.collect()
}

/// Makes a call with a message that gets past no check but that of the caller.
async fn call(address: &str, call: &str, credential: Option<&str>) -> Result<(), Status> {
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel: Channel = channel.connect().await.expect("connects");
    let connection = Connection::over(channel.clone(), credential).expect("plain");
    match call {
        "AgentService/LeaseJobs" => {
            let request = v1::LeaseJobsRequest {
                max_jobs: 1,
                ..Default::default()
            };
            return connection
                .agents()
                .lease_jobs(unary(request))
                .await
                .map(drop);
        }
        "AgentService/RotateCredential" => {
            let request = v1::RotateCredentialRequest {
                credential: vec![0x77; 32],
            };
            return connection
                .agents()
                .rotate_credential(unary(request))
                .await
                .map(drop);
        }
        _ => (),
    }
    let mut request = Request::new(());
    if let Some(credential) = credential {
        let bearer: MetadataValue<Ascii> = format!("Bearer {credential}").parse().expect("plain");
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut client = Grpc::new(channel);
    client.ready().await.expect("connected");
    let path: PathAndQuery = format!("/wattfarm.v1.{call}").parse().expect("a path");
    let codec = ProstCodec::<(), ()>::default();
    // A single answer is a stream of one. The first message is enough, if any comes.
    let mut answers = client
        .server_streaming(request, path, codec)
        .await?
        .into_inner();
    let first = tokio::time::timeout(std::time::Duration::from_millis(300), answers.message());
    first.await.map_or(Ok(()), |message| message.map(drop))
}

async fn key(farm: &Farm, role: v1::Role) -> (String, String) {
    let request = v1::CreateKeyRequest {
        name: "test".to_owned(),
        role: role.into(),
        ttl_seconds: 0,
    };
    let made = farm.operator.farm().create_key(unary(request)).await;
    let made = made.expect("the operator's key").into_inner();
    (made.key, made.description.expect("always there").key_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_times_everybody() {
    let farm = Farm::with(Arc::new(MemoryStore::default()), None).await;
    farm.agent(1).await;
    let agent = "01".repeat(32);
    let (read, _) = key(&farm, v1::Role::Read).await;
    let (request, _) = key(&farm, v1::Role::Request).await;
    let (operate, _) = key(&farm, v1::Role::Operate).await;
    let (revoked, id) = key(&farm, v1::Role::Operate).await;
    let revoke = v1::RevokeKeyRequest { key_id: id };
    farm.operator
        .farm()
        .revoke_key(unary(revoke))
        .await
        .expect("there");
    let stranger = "ee".repeat(32);
    let everybody = [
        ("nobody", None, None),
        ("a stranger", Some(stranger.as_str()), None),
        ("a revoked key", Some(&revoked), None),
        ("an agent", Some(&agent), Some(For::Agents)),
        ("read", Some(&read), Some(For::Read)),
        ("request", Some(&request), Some(For::Request)),
        ("operate", Some(&operate), Some(For::Operate)),
        ("the operator", Some(super::OPERATOR), Some(For::Operate)),
    ];
    let calls = calls();
    assert!(calls.len() > 25, "{calls:?}");
    let mut seen = BTreeSet::new();
    for name in &calls {
        let needed = role_of(name);
        for (who, credential, has) in &everybody {
            let may = match (needed, has) {
                (For::Anybody, _) => true,
                (For::Agents, has) => *has == Some(For::Agents),
                (_, None | Some(For::Agents)) => false,
                (needed, Some(has)) => needed <= *has,
            };
            let answer = call(&farm.address, name, *credential).await;
            let refused = answer.as_ref().err().is_some_and(|status| {
                matches!(
                    status.code(),
                    Code::Unauthenticated | Code::PermissionDenied
                )
            });
            // A token that is none is refused for what it is, after the caller was let in.
            let let_in = !refused || needed == For::Anybody;
            assert_eq!(let_in, may, "{who} calls {name}: {answer:?}");
            seen.insert(let_in);
        }
    }
    assert_eq!(seen.len(), 2, "nobody was refused, or everybody");
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_what_they_are_let() {
    use wattfarm_coordinator::farm::Role;
    for (anonymous, reads, requests) in [
        (None, false, false),
        (Some(Role::Read), true, false),
        (Some(Role::Request), true, true),
    ] {
        let farm = Farm::with(Arc::new(MemoryStore::default()), anonymous).await;
        let let_in = |answer: Result<(), Status>| {
            !answer.is_err_and(|status| status.code() == Code::Unauthenticated)
        };
        let read = call(&farm.address, "ModelService/ListPlatforms", None).await;
        let request = call(&farm.address, "ModelService/Measure", None).await;
        assert_eq!(
            (let_in(read), let_in(request)),
            (reads, requests),
            "{anonymous:?}"
        );
        farm.stop().await;
    }
}

/// A token enrols one agent, a credential can be changed and taken, and a key ends when it is revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_rotate_and_are_revoked() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    let lease = |connection: &Connection| {
        let mut agents = connection.agents();
        async move {
            let request = v1::LeaseJobsRequest {
                max_jobs: 1,
                ..Default::default()
            };
            agents
                .lease_jobs(unary(request))
                .await
                .map(drop)
                .map_err(|status| reason(&status))
        }
    };
    let rotate = || async {
        let request = v1::RotateCredentialRequest {
            credential: vec![2; 32],
        };
        agent
            .connection
            .agents()
            .rotate_credential(unary(request))
            .await
            .map(drop)
    };
    rotate().await.expect("its own credential");
    rotate()
        .await
        .expect("a repetition: the answer may have been lost");
    lease(&agent.connection)
        .await
        .expect("the old one holds until the new one is used");
    let renewed = Connection::open(&farm.address, Some(&"02".repeat(32)))
        .await
        .expect("connects");
    lease(&renewed).await.expect("the new one");
    let old = lease(&agent.connection)
        .await
        .expect_err("the old one is worth nothing");
    assert_eq!(old, "CREDENTIAL_UNKNOWN");

    let agents = farm
        .operator
        .farm()
        .list_agents(unary(v1::ListAgentsRequest {}))
        .await;
    let agent_id = agents.expect("the key").into_inner().agents[0]
        .agent_id
        .clone();
    let request = v1::RevokeAgentRequest { agent_id };
    let revoked = farm
        .operator
        .farm()
        .revoke_agent(unary(request))
        .await
        .expect("there");
    assert!(revoked.into_inner().agent.expect("always there").revoked);
    assert_eq!(lease(&renewed).await.expect_err("revoked"), "AGENT_REVOKED");
    let token = farm.token(0).await;
    let again = farm
        .enroll(&token, 2)
        .await
        .expect_err("the same credential");
    assert_eq!(reason(&again), "AGENT_REVOKED");
    farm.enroll(&token, 3)
        .await
        .expect("the token is still good for another");

    let unknown = v1::RevokeKeyRequest {
        key_id: Uuid::nil().to_string(),
    };
    let unknown = farm
        .operator
        .farm()
        .revoke_key(unary(unknown))
        .await
        .expect_err("no such key");
    assert_eq!(reason(&unknown), "KEY_UNKNOWN");
    farm.stop().await;
}

/// What the farm keeps, tells and exports has no secret in it: hashes alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_kept_or_logged() {
    use crate::process::Coordinator;
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let log = folder.join("log");
    let coordinator = Coordinator::start_logged(folder, &log).await;
    let operator = coordinator.operator(folder).await;
    crate::process::set_up(&operator, 1).await;
    let token = operator
        .farm()
        .create_token(unary(v1::CreateTokenRequest::default()))
        .await;
    let request = v1::CreateKeyRequest {
        name: "a user".to_owned(),
        role: v1::Role::Read.into(),
        ttl_seconds: 60,
    };
    let key = operator
        .farm()
        .create_key(unary(request))
        .await
        .expect("the key")
        .into_inner()
        .key;
    let user = Connection::open(&coordinator.address, Some(&key))
        .await
        .expect("connects");
    let listed = user
        .models()
        .list_platforms(unary(v1::ListPlatformsRequest {}))
        .await;
    listed.expect("a key of that role");
    let mut backup = operator
        .farm()
        .backup(v1::BackupRequest {})
        .await
        .expect("the key")
        .into_inner();
    let mut kept = Vec::new();
    while let Some(message) = backup.message().await.expect("is no error") {
        kept.extend(message.part);
    }
    let operator_key = std::fs::read_to_string(folder.join("store/operator.key")).expect("there");
    drop((operator, user, backup));
    coordinator.end().await;
    let log = std::fs::read_to_string(&log).expect("written");
    let kept = String::from_utf8(kept).expect("text");
    assert!(
        log.contains("taking calls") && kept.contains("a user"),
        "{log}"
    );
    let token = token.expect("the key").into_inner().token;
    let secrets = [
        token,
        key,
        operator_key.trim().to_owned(),
        crate::process::credential(0),
    ];
    for secret in secrets {
        assert!(!log.contains(&secret), "a secret is in the log");
        assert!(!kept.contains(&secret), "a secret is in the store");
    }
}
